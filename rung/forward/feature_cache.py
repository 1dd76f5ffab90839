"""Hidden states kept on disk: one safetensors file for each set of rows, mapped into memory when read.

Lies in `RUNG_HOME/cache/features`, at most `RUNG_FEATURES_GB` (10) of it; what was not used for longest
goes first. A file appears when it is whole. Where there is no room, the same tensors are held in memory
if they are small, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
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

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


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

    if name is None:
        return None
    path = _path(name)
    try:
        found = load_file(path)
        os.utime(path)  # the next one to go is the one not used for longest
    except (OSError, SafetensorError):
        return None
    return found


def keep(
    name: str | None,
    shapes: Shapes,
    fill: Callable[[dict[str, Tensor]], None],
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Tensor] | None:
    """Tensors filled once: found under a key, else made on disk, else in memory.

    Args:
        name: from `key`; None shares nothing.
        fill: writes into the tensors that it is given.
        note: told where there is no room on disk.

    Returns:
        None where neither disk nor memory has room; `fill` was then not called.
    """
    found = find(name)
    if found is not None and _fits(found, shapes):
        return found
    if name is not None and limit():
        with locked(_path(name)):
            found = find(name)  # another process may have made it meanwhile
            if found is not None and _fits(found, shapes):
                return found
            made = _on_disk(name, shapes, fill, note)
        if made is not None:
            return made
    return _in_memory(shapes, fill)


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


def _in_memory(shapes: Shapes, fill: Callable) -> dict[str, Tensor] | None:
    import psutil

    if _bytes(shapes) > SHARE * psutil.virtual_memory().available:
        return None
    made = {n: torch.zeros(shape, dtype=dtype) for n, (shape, dtype) in shapes.items()}
    fill(made)
    return made


def _on_disk(name: str, shapes: Shapes, fill: Callable, note: Callable) -> dict[str, Tensor] | None:
    header = _header(shapes)
    size = len(header) + _bytes(shapes)
    place = _path(name).parent
    if not _make_room(place, size):
        note(
            f"no room on disk for {size / 1e9:.2f} GB of hidden states: they are not kept for later "
            f"runs (free some space, or raise {LIMIT})"
        )
        return None
    handle, temporary = tempfile.mkstemp(dir=place, prefix=".making-", suffix=".safetensors")
    try:
        with os.fdopen(handle, "r+b") as file:
            # Reserved at once: writing through the map into a full disk would kill the process.
            os.posix_fallocate(file.fileno(), 0, size)
            file.write(header)
            file.flush()
            fill(_mapped(temporary, len(header), size, shapes))
            os.fsync(file.fileno())
        os.replace(temporary, _path(name))
    except OSError as fault:
        note(f"hidden states are not kept for later runs ({fault.strerror or fault})")
        return None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return find(name)


def _header(shapes: Shapes) -> bytes:
    """The header of a safetensors file whose tensors stand in the order of `shapes`."""
    entries, at = {}, 0
    for name, (shape, dtype) in shapes.items():
        end = at + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that every tensor of whole words is aligned
    return len(text).to_bytes(8, "little") + text


def _mapped(path: str, start: int, size: int, shapes: Shapes) -> dict[str, Tensor]:
    """Tensors whose memory is the file's."""
    whole = torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
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
    kept = sorted(place.glob("[!.]*.safetensors"), key=_age, reverse=True)
    total = sum(f.stat().st_size for f in kept)
    while kept and (total + size > limit() or shutil.disk_usage(place).free < size + SPARE):
        oldest = kept.pop(0)
        total -= oldest.stat().st_size
        oldest.unlink(missing_ok=True)
    return total + size <= limit() and shutil.disk_usage(place).free >= size + SPARE


def _age(path: Path) -> float:
    import time

    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
