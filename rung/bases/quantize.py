"""Turning a base's weights into codes while it is loaded, so that float32 is never held whole.

The files are mapped, not read; each weight is read, coded and forgotten before the next. What is
coded: linear layers (GPT-2's Conv1D too), and the tables of embeddings with the output layer tied to
them. Norms, biases and whatever has another shape stay as they are. Tables are kept in 8 bits whatever
the rest is: every token passes through them, and they are looked up row by row.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from rung.bases.mapped import page_out
from rung.errors import ConfigError, nearest
from rung.memory import returning_freed, trim

if TYPE_CHECKING:
    from torch import Tensor

NONE = "none"
KINDS = (NONE, "int8", "int4", "nf4")
SCRATCH = 32 << 20  # bytes of weights after which scratch memory is given back


def check(kind: str) -> None:
    """Refuse a kind that is unknown, or whose kernels are not installed.

    Raises:
        ConfigError: saying which, and what to install.
    """
    if kind not in KINDS:
        raise ConfigError(f"--quantize is '{kind}'{nearest(kind, KINDS)}")
    if kind == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "--quantize nf4 needs bitsandbytes, which is not installed: "
            "pip install 'rung[quantize]', or use --quantize int8 or int4, which need nothing"
        )


@returning_freed()
def quantize(model: Any, kind: str, dtype: str, device: str) -> None:
    """Code a model's weights in place, one after the other, and put all of it on a device.

    Args:
        model: fresh from its files, on the CPU.
        kind: int8, int4 or nf4.
        dtype: what is computed in; auto keeps what the files hold.
    """
    import torch

    precision = model.dtype if dtype == "auto" else getattr(torch, dtype)
    places: dict[int, list[tuple[Any, str]]] = {}  # of each weight: tied ones are one, and stay one
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                places.setdefault(id(weight), []).append((module, name))
    scratch = 0
    for found in places.values():
        module, name = found[0]
        scratch += module._parameters[name].nbytes
        coded = _coded(module, name, kind, precision, device)
        for module, name in found:
            module._parameters[name] = coded
        if scratch > SCRATCH:
            trim()
            scratch = 0
    trim()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _coded(module: Any, name: str, kind: str, dtype: Any, device: str) -> Any:
    import torch
    from torch.nn import Parameter

    weight = module._parameters[name]
    here = weight.detach().to(device)
    code = _code_of(module, name, weight, kind)
    if code is not None:
        kept = code.of(here, dtype)
    else:  # a copy: a view of the mapped file would hold all of it
        kept = here.to(dtype if here.is_floating_point() else None, copy=True)
    page_out(weight)
    with torch.no_grad():
        return Parameter(kept, requires_grad=False)


def _code_of(module: Any, name: str, weight: Tensor, kind: str) -> Any:
    """The code for a weight, or None where it stays as it is."""
    from torch.nn import Embedding, Linear

    from rung.bases.quantized import Int4, Int8, Nf4

    if name != "weight" or weight.dim() != 2:
        return None
    if isinstance(module, Embedding):
        return Int8
    if isinstance(module, Linear) or type(module).__name__ == "Conv1D":
        return {"int8": Int8, "int4": Int4, "nf4": Nf4}[kind]
    return None


def memory(model: Any) -> tuple[int, int]:
    """Bytes that a model's weights take, and those they would take in float32; tied ones count once."""
    from rung.bases.quantized import Quantized

    held = plain = 0
    for weight in model.parameters():
        own = weight.nbytes_held if isinstance(weight, Quantized) else None
        held += weight.numel() * weight.element_size() if own is None else own
        plain += weight.numel() * 4
    return held, plain
