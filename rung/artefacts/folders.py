"""Folders on disk that are whole or absent: a manifest of SHA-256, written atomically, verified.

`write` fills a hidden folder beside the target, then puts it in place in one step, so whoever reads
the target sees the old content or the new one, never a mixture, whenever the power goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rung import home
from rung.artefacts.safety import expected_bytes, files, inspect, inspect_file, read_header, read_json
from rung.errors import ArtefactError, ConfigError, StoreError

__all__ = [
    "MANIFEST",
    "inspect",
    "model_folder",
    "model_name",
    "read_header",
    "read_json",
    "remove",
    "sha256",
    "staged",
    "verify",
    "write",
]

MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Words that flags and API fields give a meaning of their own, and device names of some systems.
RESERVED = frozenset(
    {"base", "none", "null", "all", "con", "nul", "aux", "prn", "manifest.json", "lost-found"}
)
CHUNK = 1 << 20


def model_name(name: str) -> str:
    """`name` itself if it may name a model: 1 to 64 letters, digits, `.`, `_`, `-`.

    Raises:
        ConfigError: for anything else, such as `..`, a slash, or a reserved word.
    """
    if not NAME.fullmatch(name) or ".." in name or name.endswith("."):
        shown = ascii(name if len(name) <= 80 else name[:77] + "...")
        raise ConfigError(
            f"{shown} cannot name a model: use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit, without '..'"
        )
    if name.lower() in RESERVED:
        raise ConfigError(f"'{name}' is reserved: choose another name for the model")
    return name


def model_folder(name: str) -> Path:
    """Where the model of that name is kept, whether it exists or not.

    Raises:
        ConfigError: when the name is not allowed.
        ArtefactError: when the folder is a link that leads out of the models' folder.
        StoreError: when the models' folder cannot be created.
    """
    model_name(name)
    models = home.folder("models")
    folder = models / name
    if folder.is_symlink() and not folder.resolve().is_relative_to(models.resolve()):
        raise ArtefactError(f"the folder of model '{name}' links out of {models}: copy it in")
    return folder


def write(folder: str | Path, fill: Callable[[Path], object], *, needs: int = 0) -> None:
    """Create or replace `folder` with what `fill(temporary folder)` writes, atomically.

    A manifest of every file is added, everything is synced to the disk, and then put in place. The
    earlier folder stays as it is until that step, and whatever `fill` raises.

    Args:
        needs: bytes that `fill` is going to write where the caller knows; checked before.

    Raises:
        StoreError: when the disk is full (naming the bytes needed) or cannot be written.
        ArtefactError: when `fill` wrote something unsafe, such as a pickle.
    """
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _settle(folder)
        if needs > shutil.disk_usage(folder.parent).free:
            raise _full(folder, needs)
        with _temporary(folder) as temporary:
            try:
                fill(temporary)
                _seal(temporary)
                _place(temporary, folder)
            except Exception as fault:
                if _is_full(fault):
                    raise _full(folder, max(needs, _wanted(temporary))) from fault
                raise
    except Exception as fault:
        if _is_full(fault):
            raise _full(folder, needs) from fault
        if isinstance(fault, OSError) and _below(fault, folder.parent):
            raise StoreError(f"cannot write {folder}: {fault.strerror}") from fault
        raise


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a hidden folder beside one that is to be made, to be filled and moved there.

    What a killed process has left of earlier ones is deleted, and so is what is not moved.

    Raises:
        StoreError: when the disk is full.
    """
    _sweep(folder)
    with _temporary(folder) as temporary:
        try:
            yield temporary
        except Exception as fault:
            if _is_full(fault):
                way = "choose a folder on another disk"
                raise _full(folder, _wanted(temporary), way) from fault
            raise


def verify(folder: str | Path, full: bool = True) -> None:
    """Check that a folder is what was written: every file there, none more, unchanged and safe.

    Args:
        full: compare every SHA-256; without it sizes and headers alone, in milliseconds.

    Raises:
        ArtefactError: naming the damaged, missing, extra or unsafe file.
    """
    folder = Path(os.path.abspath(folder))
    _settle(folder, sweep=False)
    present = {path.relative_to(folder).as_posix(): path for path in files(folder)}
    if MANIFEST not in present:
        raise ArtefactError(f"{folder} has no {MANIFEST}: it is incomplete or not Rung's")
    manifest = read_json(present.pop(MANIFEST)).get("files")
    if not isinstance(manifest, dict):
        raise ArtefactError(f"the {MANIFEST} of {folder} lists no files: write the folder again")
    for name, path in present.items():
        inspect_file(path, name)
        if name not in manifest:
            raise ArtefactError(f"{name} in {folder} is not in its manifest: remove the file")
    for name, entry in manifest.items():
        if name not in present:
            raise ArtefactError(f"{name} is missing from {folder}: fetch or train it again")
        _compare(present[name], name, entry, full)


def remove(folder: str | Path) -> None:
    """Delete a folder that `write` made. It is gone at once; a crash leaves only what gets swept.

    Raises:
        StoreError: when the file system refuses.
    """
    folder = Path(os.path.abspath(folder))
    try:
        aside = _beside(folder, "gone")
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, aside)
            _sync(folder.parent)
        _sweep(folder)
    except OSError as fault:
        raise StoreError(f"cannot delete {folder}: {fault.strerror}") from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, name: str, entry: object, full: bool) -> None:
    try:
        if not isinstance(entry, dict) or path.stat().st_size != entry.get("bytes"):
            raise ArtefactError(f"{name} is damaged (its size differs): fetch or train it again")
        if full and sha256(path) != entry.get("sha256"):
            raise ArtefactError(f"{name} is damaged (its SHA-256 differs): fetch or train it again")
    except OSError as fault:
        raise ArtefactError(f"cannot read {path}: {fault.strerror}") from None


def _beside(folder: Path, role: str) -> Path:
    """A fresh hidden name in the same file system, such as `.coach.new-1f2e3d4c`."""
    return folder.with_name(f".{folder.name}.{role}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A temporary folder, locked so that no other writer takes it for a crashed one's leftover."""
    while True:
        temporary = _beside(folder, "new")
        temporary.mkdir()
        try:
            held = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # swept by another writer before we could lock it
            continue
        if _lock(held) and temporary.exists():
            break
        os.close(held)
    try:
        yield temporary
    finally:
        os.close(held)
        shutil.rmtree(temporary, ignore_errors=True)


def _lock(held: int) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        # A file system without locks: go on, as the only cost is a leftover swept too early.
        return fault.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _seal(folder: Path) -> None:
    """Check what was written, add the manifest, and have the disk hold all of it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    entries = {}
    # The folder was made under the umask; safetensors gives its files to their owner alone.
    readable = folder.stat().st_mode & 0o666
    for path in files(folder):
        name = path.relative_to(folder).as_posix()
        inspect_file(path, name)
        path.chmod(readable)
        entries[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
        _sync(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": 1, "files": entries}, indent=1) + "\n", "utf-8")
    _sync(manifest)
    for path in sorted(p for p in folder.rglob("*") if p.is_dir()):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _place(temporary: Path, folder: Path) -> None:
    """Put the new folder in place of the old one, which is deleted afterwards."""
    for attempt in range(20):
        try:
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise ArtefactError(f"{folder} is a link or a file: remove it first")
            if not folder.exists():
                os.rename(temporary, folder)
                break
            if _exchange(temporary, folder):
                break  # the old content is now at `temporary`, which its owner deletes
            aside = _beside(folder, "old")
            os.rename(folder, aside)
            os.rename(temporary, folder)
            shutil.rmtree(aside, ignore_errors=True)
            break
        except OSError as fault:  # another writer of the same name came between
            again = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)
            if fault.errno not in again or attempt == 19 or not temporary.exists():
                raise
    _sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step where the system can (Linux `renameat2`), else return False."""
    if not sys.platform.startswith("linux"):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def _settle(folder: Path, sweep: bool = True) -> None:
    """Mend what a crash left: bring back an old folder that was set aside, sweep the rest."""
    if not folder.exists():
        asides = sorted(folder.parent.glob(f".{_plain(folder.name)}.old-*"))
        for aside in asides[:1]:
            with contextlib.suppress(OSError):
                os.rename(aside, folder)
    if sweep:
        _sweep(folder)


def _sweep(folder: Path) -> None:
    """Delete leftovers that no living writer holds."""
    for role in ("new", "old", "gone"):
        for path in folder.parent.glob(f".{_plain(folder.name)}.{role}-*"):
            with contextlib.suppress(OSError):
                held = os.open(path, os.O_RDONLY)
                try:
                    if _lock(held):
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(held)


def _plain(name: str) -> str:
    """The name with what `glob` would interpret taken literally."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _is_full(fault: BaseException) -> bool:
    """Whether the disk or a quota is full. Libraries in Rust say so in words only."""
    if isinstance(fault, StoreError):
        return False
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "os error 28" in str(fault) or "No space left on device" in str(fault)


def _full(folder: Path, needs: int, way: str = "set RUNG_HOME to another disk") -> StoreError:
    free = shutil.disk_usage(folder.parent).free
    kept = " the earlier version is unchanged;" if folder.exists() else ""
    amount = f"at least {needs}" if needs > 0 else "more"
    return StoreError(
        f"no space left to write {folder}: it needs {amount} bytes and {free} are free;{kept} "
        f"free some space, or {way}"
    )


def _wanted(temporary: Path) -> int:
    """Bytes that a half-written folder would have had, as far as its safetensors headers tell."""
    total = 0
    for path in temporary.rglob("*"):
        with contextlib.suppress(OSError):
            total += max(path.stat().st_size, expected_bytes(path)) if path.is_file() else 0
    return total


def _below(fault: OSError, folder: Path) -> bool:
    """Whether an OSError is about our folder; one about the caller's own files is not ours."""
    return isinstance(fault.filename, (str, bytes, os.PathLike)) and Path(
        os.fsdecode(fault.filename)
    ).is_relative_to(folder)
