"""Weights in torch's format of before version 1.6, a pickle, read by a reader that runs no code.

Only what a plain state dictionary consists of is known: `OrderedDict`, `_rebuild_tensor_v2` and typed
storages. Everything else that a pickle can name is refused, so that reading one cannot run code.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

import numpy as np

from rung.errors import ArtefactError

MAGIC = 0x1950A86A20F9469CFC6C  # torch's, at the head of such a file
PROTOCOL = 1001  # torch's version of the format
MAX_TENSORS = 100_000
DTYPES = {
    "FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"), "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"), "ByteStorage": np.dtype("u1"),
}  # fmt: skip


class _Storage:
    """A storage that the pickle names: its type, its key in the file, and its bytes once read."""

    def __init__(self, dtype: np.dtype, count: int):
        self.dtype, self.count = dtype, count
        self.values: np.ndarray | None = None


class _Tensor:
    """A view of a storage, as `_rebuild_tensor_v2` is told it."""

    def __init__(self, storage: Any, offset: int, size: tuple, stride: tuple, *_: Any):
        whole = (*size, *stride, offset)
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in whole):
            raise pickle.UnpicklingError("a tensor that is none")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= storage.count:
            raise pickle.UnpicklingError("a tensor that leaves its storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """The values, copied."""
        values = self.storage.values
        assert values is not None
        steps = tuple(step * values.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.size, steps)
        return np.array(view, order="C")  # safetensors writes the bytes as they lie


class _Reader(pickle.Unpickler):
    """A pickle reader that knows the names of a state dictionary and no others."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no weights need")

    def persistent_load(self, told: Any) -> _Storage:
        if not isinstance(told, tuple) or len(told) != 6 or told[0] != "storage" or told[5] is not None:
            raise pickle.UnpicklingError("a storage that is none")
        _, dtype, key, _, count, _ = told
        if not isinstance(dtype, np.dtype) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a storage without type or size")
        return self.storages.setdefault(str(key), _Storage(dtype, count))


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name.

    Raises:
        ArtefactError: the file is damaged, of another format, or holds anything but tensors.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            heads = [_Reader(file).load() for _ in range(3)]
            if heads[:2] != [MAGIC, PROTOCOL] or heads[2].get("little_endian") is not True:
                raise pickle.UnpicklingError("it is not in torch's format of before 1.6")
            reader = _Reader(file)
            found = reader.load()
            keys = _Reader(file).load()
            for key in keys:
                _fill(file, reader.storages[str(key)], size)
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, AttributeError, TypeError,
            IndexError, OverflowError, MemoryError) as fault:  # fmt: skip
        raise ArtefactError(f"{path} cannot be read as weights: {fault}") from None
    plain = isinstance(found, dict) and len(found) <= MAX_TENSORS
    if not plain or not all(isinstance(n, str) and isinstance(t, _Tensor) for n, t in found.items()):
        raise ArtefactError(f"{path} holds something else than tensors by name")
    if any(tensor.storage.values is None for tensor in found.values()):
        raise ArtefactError(f"{path} is cut short: it names values that it does not hold")
    return {name: tensor.array() for name, tensor in found.items()}


def _fill(file: IO[bytes], storage: _Storage, most: int) -> None:
    """Read the values of one storage: their count in eight bytes, then they themselves."""
    count = int.from_bytes(file.read(8), "little")
    if count != storage.count or count * storage.dtype.itemsize > most:
        raise pickle.UnpicklingError("a storage has another size than is told")
    data = file.read(count * storage.dtype.itemsize)
    if len(data) < count * storage.dtype.itemsize:
        raise EOFError("it is cut short")
    storage.values = np.frombuffer(data, storage.dtype)
