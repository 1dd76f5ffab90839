"""What a folder of weights must not contain: code that loading would run, links out, lying headers.

Only names, JSON and safetensors headers are read; nothing is unpickled or imported, so a hostile
folder is refused before anything of it can run. Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import ArtefactError

PICKLES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle", ".joblib", ".dill", ".mar", ".nemo"}
)
# The safetensors library refuses longer headers too.
MAX_HEADER_BYTES = 100_000_000
MAX_JSON_BYTES = 256 * 1024 * 1024

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

# transformers imports what these name: a Python file of the folder, or a kernel from the Hub.
CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
ATTENTION_KEYS = frozenset(
    {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}
)
# Files whose keys steer how transformers loads; a tokenizer's vocabulary may hold any word.
CONFIGS = frozenset(
    {
        "config.json",
        "adapter_config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
    }
)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a safetensors header has it; `begin` and `end` in bytes of the data part."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def inspect(folder: str | Path) -> None:
    """Refuse a folder that is unsafe to load. Works on any folder, with or without a manifest.

    Raises:
        ArtefactError: naming the file: a pickle under any name, a link out of the folder,
            `auto_map` or an attention override in a config, JSON or safetensors that are not.
    """
    folder = Path(folder)
    for path in files(folder):
        inspect_file(path, path.relative_to(folder).as_posix())


def inspect_file(path: Path, name: str) -> None:
    """The checks of `inspect` for one file; `name` is how messages call it."""
    if path.suffix.lower() == ".safetensors":
        try:
            read_header(path)
        except ArtefactError:
            _refuse_pickle(path, name)  # the first bytes of a sound one, a length, may look like one
            raise
        return
    _refuse_pickle(path, name)
    if path.name in CONFIGS:
        _refuse_code(read_json(path), name)


def files(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, sorted, after refusing links that lead out of it.

    Raises:
        ArtefactError: when the folder is missing, or holds a link out, a link to a folder, or
            something that is neither file nor folder.
    """
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is not a folder: give the folder of a model")
    root = folder.resolve()
    found = []
    try:
        entries = sorted(folder.rglob("*"))
    except OSError as fault:
        raise ArtefactError(f"cannot read {folder}: {fault.strerror}") from None
    for path in entries:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            target = path.resolve()
            if not target.is_relative_to(root):
                raise ArtefactError(f"{name} in {folder} links out of the folder: copy the file in")
            if not target.is_file():
                raise ArtefactError(f"{name} in {folder} is a link that leads to no file")
        if path.is_file():
            found.append(path)
        elif not path.is_dir():
            raise ArtefactError(f"{name} in {folder} is neither a file nor a folder: remove it")
    yield from found


def _refuse_pickle(path: Path, name: str) -> None:
    advice = "loading it could run code; convert it to safetensors"
    if path.suffix.lower() in PICKLES:
        raise ArtefactError(f"{name} is a pickle: {advice}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        # Pickle protocols 2 to 5 begin with PROTO and the version; torch.save writes a zip of one.
        if len(start) >= 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
            raise ArtefactError(f"{name} is a pickle under another name: {advice}")
        if start == b"PK\x03\x04" and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(Path(n).suffix.lower() in PICKLES for n in archive.namelist()):
                    raise ArtefactError(f"{name} is an archive that holds a pickle: {advice}")
    except OSError as fault:
        raise ArtefactError(f"cannot read {name}: {fault.strerror}") from None
    except zipfile.BadZipFile:
        raise ArtefactError(f"{name} is a damaged archive: fetch or write it again") from None


def _refuse_code(content: Any, name: str) -> None:
    """Look through nested configs too: `text_config` is loaded like the outer one."""
    if isinstance(content, list):
        for item in content:
            _refuse_code(item, name)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if value in (None, False, {}, []):
            continue
        if key in CODE_KEYS:
            raise ArtefactError(f"{name} asks to run code through '{key}': remove that key")
        if key in ATTENTION_KEYS:
            raise ArtefactError(
                f"{name} overrides the attention implementation through '{key}': remove that key"
            )
        _refuse_code(value, name)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ArtefactError: when it is missing, too large, not JSON, or not an object.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ArtefactError(f"{path} is larger than any configuration")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise ArtefactError(f"cannot read {path}: {fault.strerror}") from None
    except (ValueError, RecursionError) as fault:
        raise ArtefactError(f"{path} is not valid JSON: {fault}") from None
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} must hold a JSON object")
    return content


def read_header(path: str | Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, after checking that its header tells the truth.

    The offsets must follow each other without gap or overlap and end where the file ends, and each
    must be as long as shape and dtype say. Reads the header alone.

    Raises:
        ArtefactError: naming the file and what is wrong with it.
    """
    path = Path(path)
    raw, data_bytes = _raw_header(path)
    tensors = _parse(path, raw)
    _check_offsets(path, tensors, data_bytes)
    return tensors


def expected_bytes(path: Path) -> int:
    """How long a safetensors file is by its header, even when cut off; 0 when it cannot tell."""
    if path.suffix.lower() != ".safetensors":
        return 0
    try:
        raw, _ = _raw_header(path)
        tensors = _parse(path, raw)
    except ArtefactError:
        return 0
    return 8 + len(raw) + max((t.end for t in tensors.values()), default=0)


def _raw_header(path: Path) -> tuple[bytes, int]:
    """The header's bytes and how many bytes follow it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise _broken(path, f"is cut off after {len(start)} bytes")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER_BYTES or 8 + length > size:
                raise _broken(path, f"has a header of {length} bytes in a file of {size}")
            raw = file.read(length)
    except OSError as fault:
        raise ArtefactError(f"cannot read {path}: {fault.strerror}") from None
    return raw, size - 8 - length


def _broken(path: Path, what: str) -> ArtefactError:
    return ArtefactError(f"{path.name} {what}: fetch or write it again ({path})")


def _parse(path: Path, raw: bytes) -> dict[str, TensorInfo]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a name stands twice")
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as fault:
        raise _broken(path, f"has a header that is not JSON ({fault})") from None
    if not isinstance(header, dict):
        raise _broken(path, "has a header that is not an object")
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise _broken(path, f"describes tensor '{name}' incompletely") from None
    if any(type(n) is not int or n < 0 for n in numbers):
        raise _broken(path, f"gives tensor '{name}' a size that is no whole number")
    if dtype not in BITS:
        raise _broken(path, f"gives tensor '{name}' the unknown dtype '{dtype}'")
    if math.prod(shape) * BITS[dtype] != (end - begin) * 8:
        raise _broken(path, f"says {end - begin} bytes for tensor '{name}' of {dtype} {shape}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _check_offsets(path: Path, tensors: dict[str, TensorInfo], size: int) -> None:
    reached = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != reached:
            raise _broken(path, f"has a gap or an overlap before tensor '{name}'")
        reached = tensor.end
    if reached != size:
        raise _broken(path, f"holds {size} bytes of tensors where its header says {reached}")
