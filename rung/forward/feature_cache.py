"""Hidden states kept on disk: one safetensors file for each set of rows, mapped into memory when read.

Lies in `RUNG_HOME/cache/features`, at most `RUNG_FEATURES_GB` (10) of it; what was not used for longest
goes first. A file appears when it is whole, and holds a checksum by which later damage is found. Where
there is no room, the same tensors are held in memory if they are small, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rung.bases.cache import locked
from rung.errors import ConfigError
from rung.home import folder

LIMIT = "RUNG_FEATURES_GB"
SPARE = 1 << 30  # bytes of the disk that are left to others
SHARE = 0.25  # of the free memory, for what the disk has no room for
KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}

# In the header's own place for remarks: of the tensors' bytes, and what it took to make them.
CHECKSUM, SECONDS = "crc32", "seconds"
CHUNK = 1 << 22  # bytes read at once

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
_unused: ContextVar[bool] = ContextVar("features are made anew", default=False)


@dataclass
class Spared:
    """Work that was found done.

    Attributes:
        found: seconds that it once took, by name. made: names of what was made meanwhile.
    """

    found: dict[str, float] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        """Seconds of all that was found and not made meanwhile."""
        return sum(seconds for name, seconds in self.found.items() if name not in self.made)


_spared: ContextVar[Spared | None] = ContextVar("who counts what was found", default=None)


@contextlib.contextmanager
def spared() -> Iterator[Spared]:
    """Count the seconds that features took which are found here: what they cost is no less for it."""
    counted = Spared()
    token = _spared.set(counted)
    try:
        yield counted
    finally:
        _spared.reset(token)


@contextlib.contextmanager
def unused() -> Iterator[None]:
    """Make everything anew and keep nothing on disk, so that it can be timed."""
    token = _unused.set(True)
    try:
        yield
    finally:
        _unused.reset(token)


def key(bank: Any, *parts: Any) -> str | None:
    """What identifies features: the base, its precision and quantisation, and `parts`.

    None where it is not known which base it is, so that nothing can be shared.
    """
    if not bank.digest:
        return None
    # A quantised weight answers with the precision that it is computed in: its type tells.
    kinds = sorted(
        {
            f"{type(m).__name__} {type(p).__name__} {type(p.data).__name__} {p.dtype}"
            for m in bank.model.modules()
            for p in _own(m)
        }
    )
    return named(bank.digest, str(bank.dtype), kinds, bank.carries_trie, *parts)


def named(*parts: Any) -> str:
    """A name for what follows from `parts` alone."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def digest(rows: Iterable[tuple[int, ...]]) -> str:
    """SHA-256 of rows of token ids, in their order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(f"{len(row)}:{','.join(map(str, row))};".encode())
    return total.hexdigest()


def find(name: str | None) -> dict[str, Tensor] | None:
    """The tensors kept under a key, mapped from disk; None when there are none, or a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if name is None or _unused.get():
        return None
    path = _path(name)
    try:
        seconds = _seconds_if_sound(path)
        if seconds is None:
            return None
        found = load_file(path)
        os.utime(path)  # the next one to go is the one not used for longest
    except (OSError, ValueError, KeyError, SafetensorError):
        return None
    if (counted := _spared.get()) is not None:
        counted.found[name] = seconds
    return found


def _seconds_if_sound(path: Path) -> float | None:
    """What it took to make a file's tensors, if they are those that were written; 0 where it does not
    say. Raises for a header that is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            return None
        said, found = json.loads(file.read(length))["__metadata__"], 0
        while part := file.read(CHUNK):
            found = zlib.crc32(part, found)
    return float(said.get(SECONDS, 0.0)) if said[CHECKSUM] == f"{found:08x}" else None


def keep(
    name: str | None,
    shapes: Shapes,
    fill: Callable[[dict[str, Tensor]], None],
    note: Callable[[str], None] = lambda _: None,
    held: int = 0,
) -> dict[str, Tensor] | None:
    """Tensors filled once: found under a key, else made on disk, else in memory.

    Args:
        name: from `key`; None shares nothing.
        fill: writes into the tensors that it is given.
        note: told where there is no room on disk.
        held: bytes of the same features that whoever asks has already; they take room too.

    Returns:
        None where neither disk nor memory has room; `fill` was then not called.
    """
    found = find(name)
    if found is not None and _fits(found, shapes):
        return found
    if name is not None and limit() and not _unused.get():
        with locked(_path(name)):
            found = find(name)  # another process may have made it meanwhile
            if found is not None and _fits(found, shapes):
                return found
            made = _on_disk(name, shapes, fill, note, held)
        if made is not None:
            return made
    return _in_memory(shapes, fill, held)


def limit() -> int:
    """The most bytes that all features may take on disk.

    Raises:
        ConfigError: when RUNG_FEATURES_GB is no number.
    """
    text = os.environ.get(LIMIT, "10")
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < 1e9:
        raise ConfigError(f"{LIMIT} is '{text}': give a number of gigabytes, 0 for none")
    return int(gigabytes * 1e9)


def _own(module: torch.nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _path(name: str) -> Path:
    return folder("cache") / "features" / f"{name}.safetensors"


def _fits(found: dict[str, Tensor], shapes: Shapes) -> bool:
    return {n: (tuple(t.shape), t.dtype) for n, t in found.items()} == dict(shapes)


def _bytes(shapes: Shapes) -> int:
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())


def _in_memory(shapes: Shapes, fill: Callable, held: int) -> dict[str, Tensor] | None:
    import psutil

    if held + _bytes(shapes) > SHARE * psutil.virtual_memory().available:
        return None
    made = {n: torch.zeros(shape, dtype=dtype) for n, (shape, dtype) in shapes.items()}
    fill(made)
    return made


def _on_disk(
    name: str, shapes: Shapes, fill: Callable, note: Callable, held: int
) -> dict[str, Tensor] | None:
    header = _header(shapes)
    size = len(header) + _bytes(shapes)
    place = _path(name).parent
    temporary = ""
    try:
        with locked(
            place / "room"
        ):  # so that two that are made at once do not both take the last of it
            if held + size > limit() or not _make_room(place, size):
                note(
                    f"no room on disk for {size / 1e9:.2f} GB of hidden states: they are not kept for "
                    f"later runs (free some space, or raise {LIMIT})"
                )
                return None
            handle, temporary = tempfile.mkstemp(dir=place, prefix=".making-", suffix=".safetensors")
            with os.fdopen(handle, "r+b") as file:
                # Reserved at once: writing through the map into a full disk would kill the process.
                os.posix_fallocate(file.fileno(), 0, size)
        whole = torch.from_file(temporary, shared=True, size=size, dtype=torch.uint8)
        began = time.perf_counter()
        fill(_parts(whole, len(header), shapes))
        seconds = time.perf_counter() - began
        if (counted := _spared.get()) is not None:
            counted.made.add(name)
        header = _header(shapes, zlib.crc32(whole[len(header) :].numpy().data), seconds)
        with open(temporary, "r+b") as file:
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, _path(name))
    except OSError as fault:
        note(f"hidden states are not kept for later runs ({fault.strerror or fault})")
        return None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return find(name)


def _header(shapes: Shapes, checksum: int = 0, seconds: float = 0.0) -> bytes:
    """The header of a safetensors file whose tensors stand in the order of `shapes`.

    As long for one checksum and time as for another.
    """
    about = {CHECKSUM: f"{checksum:08x}", SECONDS: f"{seconds:012.3f}"}
    entries: dict[str, Any] = {"__metadata__": about}
    at = 0
    for name, (shape, dtype) in shapes.items():
        end = at + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that every tensor of whole words is aligned
    return len(text).to_bytes(8, "little") + text


def _parts(whole: Tensor, start: int, shapes: Shapes) -> dict[str, Tensor]:
    """The tensors in a file's bytes, sharing their memory."""
    tensors = {}
    for name, (shape, dtype) in shapes.items():
        count = math.prod(shape) * dtype.itemsize
        tensors[name] = whole[start : start + count].view(dtype).view(shape)
        start += count
    return tensors


def _make_room(place: Path, size: int) -> bool:
    """Forget what was not used for longest until `size` more bytes fit under the limit."""
    import shutil

    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(".making-*"):  # by a process that was killed
        with contextlib.suppress(OSError):
            if _age(left) > 24 * 3600:
                left.unlink()
    making = sum(_size(f) for f in place.glob(".making-*"))
    kept = sorted(place.glob("[!.]*.safetensors"), key=_age, reverse=True)
    total = making + sum(_size(f) for f in kept)
    while kept and (total + size > limit() or shutil.disk_usage(place).free < size + SPARE):
        oldest = kept.pop(0)
        total -= _size(oldest)
        oldest.unlink(missing_ok=True)
    return total + size <= limit() and shutil.disk_usage(place).free >= size + SPARE


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # another process was done with it
        return 0


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
