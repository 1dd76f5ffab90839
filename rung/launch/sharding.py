"""Sharding of a frozen base's layers over processes: torch's FSDP2 (`fully_shard`).

Each process holds a part of every decoder layer; a layer is gathered for as long as it computes. What
stands outside the layers (embeddings, final norm, output layer) every process holds whole, so that tied
weights stay one tensor.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import torch
from torch import Tensor, nn

from rung.errors import ConfigError
from rung.forward.backbone import layer_names
from rung.memory import return_freed

MADV_DONTNEED = 4  # madvise(2)


def shard(model: Any, dtype: torch.dtype, device: str, processes: int) -> None:
    """Put a model's weights on a device, in a precision, this process's part of each layer alone.

    Layer after layer, so that no process ever holds more than its parts and one whole layer beside what
    is mapped from files.

    Raises:
        ConfigError: for a model without a list of decoder layers.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = layer_names(model, model.config.get_text_config().num_hidden_layers)
    if not names:
        raise ConfigError(
            f"--shard needs a base with a list of decoder layers, which {type(model).__name__} "
            "has not: leave it out"
        )
    return_freed()
    model.requires_grad_(False)
    mesh = init_device_mesh(torch.device(device).type, (processes,))
    for name in names:
        layer = model.get_submodule(name)
        mapped = [p.data for p in layer.parameters()]
        _settle(layer, dtype, device)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        for tensor in mapped:
            _give_back(tensor)
    sharded = {p for name in names for p in model.get_submodule(name).parameters()}
    _settle(model, dtype, device, leave=sharded)


def _settle(module: nn.Module, dtype: torch.dtype, device: str, leave: Any = frozenset()) -> None:
    """Move parameters and buffers; buffers keep their precision, as transformers' loading leaves it."""
    for parameter in module.parameters():
        if parameter not in leave:
            kind = dtype if parameter.is_floating_point() else parameter.dtype
            parameter.data = parameter.data.to(device, kind)
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


def _give_back(tensor: Tensor) -> None:
    """Tell the system that a tensor's pages are not needed any more, where they are mapped from a file.

    They count as this process's memory until then. Nothing may read the tensor afterwards.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    size = (tensor.data_ptr() + tensor.nbytes) // page * page - first
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), MADV_DONTNEED)
