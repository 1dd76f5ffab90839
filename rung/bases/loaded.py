"""A base in memory: the model frozen and in eval mode, with its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.bases import lean_import
from rung.bases import quantize as quantizing
from rung.bases.folder import inspect
from rung.errors import ArtefactError, ConfigError, nearest
from rung.types import BaseInfo

DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base: `model` is a transformers causal language model without gradients."""

    model: Any
    tokenizer: Any
    info: BaseInfo
    quantize: str = quantizing.NONE


def load(
    info: BaseInfo,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantize: str | None = None,
    place: Callable[[Any, str, str], None] | None = None,
) -> LoadedBase:
    """Load a resolved base into memory.

    Args:
        info: what `resolve` returned.
        dtype: of the weights: float32, bfloat16, float16, or auto for what the files hold.
        device: where to put them, such as `cpu`, `cuda`, `cuda:1` or `mps`.
        quantize: keep the weights in fewer bits, int8, int4 or nf4, and compute in `dtype`.
        place: called as `place(model, dtype, device)` to put the weights there, mapped as the files
            have them; all of them are put there by default.

    Raises:
        ArtefactError: the folder is unsafe, damaged, or not a causal language model.
        ConfigError: no such dtype, device or quantisation.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype is '{dtype}'{nearest(dtype, DTYPES)}")
    kind = quantize or quantizing.NONE
    quantizing.check(kind)
    check_device(device)
    path = Path(info.path)
    inspect(path)
    with quiet():
        # As the files have them, so that they are mapped and not copied before they are coded.
        plain = kind == quantizing.NONE and place is None
        model = read_model(path, dtype if plain else "auto")
        tokenizer = read_tokenizer(path)
    try:
        if place is not None:
            place(model, dtype, device)
        elif kind == quantizing.NONE:
            model.to(device)
        else:
            quantizing.quantize(model, kind, dtype, device)
    except (RuntimeError, AssertionError) as fault:
        reason = str(fault).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used: {reason}") from None
    model.eval()
    model.requires_grad_(False)
    return LoadedBase(model, tokenizer, info, kind)


def check_device(device: str) -> None:
    """Refuse a device that this machine, or this build of torch, does not have.

    Raises:
        ConfigError: naming those there are.
    """
    import torch

    there = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        kind = accelerator.type
        there += [kind, *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
    if device not in there:
        raise ConfigError(f"--device is '{device}', but this machine has {', '.join(there)}")


def read_model(path: Path, dtype: str) -> Any:
    """The causal language model in a folder that `inspect` has passed.

    Raises:
        ArtefactError: transformers cannot load it, or weights that it needs are not in the files
            (transformers would fill them with random numbers).
    """
    import torch

    lean_import.import_models()
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = lean_import.call(
            lambda: AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        )
    except (ValueError, OSError, KeyError, RuntimeError, TypeError, ImportError) as fault:
        reason = str(fault).strip().splitlines()[0][:300] if str(fault).strip() else repr(fault)
        raise ArtefactError(f"{path} cannot be loaded as a causal language model: {reason}") from fault
    model, report = loaded
    lacking = sorted(report["missing_keys"]) + sorted(str(k) for k in report["mismatched_keys"])
    if lacking:
        raise ArtefactError(
            f"{path} lacks {len(lacking)} of the weights that a causal language model needs, "
            f"such as {lacking[0]}: it is another kind of model, or incomplete"
        )
    return model


def read_tokenizer(path: Path) -> Any:
    """The tokenizer in a base's folder.

    Raises:
        ArtefactError: there is none that transformers can load.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as fault:
        reason = (str(fault).strip().splitlines() or [repr(fault)])[0][:300]
        raise ArtefactError(f"{path} has no tokenizer that can be loaded: {reason}") from fault


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal, and restore them after."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
