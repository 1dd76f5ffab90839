"""Files of an npm package, kept in a folder that is made once and whole."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(
    package: str, folder: Path, unpack: Callable[[tarfile.TarFile, Path], None], flag: str
) -> Path:
    """The folder, filled from the package where it is not there.

    Args:
        unpack: writes what is wanted of the archive into an empty folder.
        flag: by which the user names a folder in place of fetching.

    Raises:
        SystemExit: where npm is missing.
    """
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(f"npm is needed to fetch {package}, or give {flag} FOLDER")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [npm, "pack", "--silent", "--ignore-scripts", package]
        subprocess.run(command, cwd=temporary, check=True, stdout=subprocess.DEVNULL)
        made = Path(temporary) / "made"
        made.mkdir()
        with tarfile.open(next(Path(temporary).glob("*.tgz"))) as archive:
            unpack(archive, made)
        made.rename(folder)
    return folder
