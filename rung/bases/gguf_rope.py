"""Scaling of rotary embeddings in a GGUF, which transformers passes over when it reads one.

llama.cpp scales by fields of the header (linear, yarn), and Llama 3 by a tensor of factors, one for
each frequency. Source: llama.cpp, src/llama-model.cpp and convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LOW, HIGH, ORIGINAL = 1.0, 4.0, 8192  # Llama 3's own, which its factors do not name
CLOSE = 1e-4  # of a factor, held in float32
# Of yarn, what llama.cpp can read and transformers is not told.
UNREAD = tuple(
    f"rope.scaling.{name}"
    for name in (
        "yarn_ext_factor",
        "yarn_attn_factor",
        "yarn_beta_fast",
        "yarn_beta_slow",
        "attn_factor",
    )
)


def scale(config: Any, header: Mapping[str, Any]) -> None:
    """Set the scaling that a GGUF's header and factors stand for in a configuration read from it.

    Args:
        config: of transformers, changed in place.
        header: from `read_header`, with `rope_freqs`, the tensor of factors, if there is one.

    Raises:
        ValueError: for a scaling that is not known here.
    """
    every = getattr(config, "rope_parameters", None)
    if not every:
        return  # it has none
    rope = every.get("full_attention") or every  # layers with a window are not scaled
    if rope.get("rope_type", "default") != "default":
        return  # transformers read it
    found = _by_fields(header, config) or _by_factors(header, config, rope)
    rope.update(found or {})


def head_size(config: Any) -> int:
    """Numbers of an attention head's query: told, or an even share of the width."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def llama3_factors(rope: Mapping[str, Any], head: int) -> np.ndarray:
    """What Llama 3 divides each frequency by, (head / 2,) in float64."""
    import numpy as np

    low, high, old = (
        rope[name]
        for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    wave = _waves(rope, head)
    smooth = (old / wave - low) / (high - low)
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return np.where(wave > old / low, rope["factor"], np.where(wave < old / high, 1.0, between))


def _by_fields(header: Mapping[str, Any], config: Any) -> dict[str, Any] | None:
    """Parameters by the header's fields; None where they say nothing."""
    arch = header.get("general.architecture", "")
    said = {key.removeprefix(f"{arch}."): value for key, value in header.items()}
    factor = said.get("rope.scaling.factor") or said.get("rope.scale_linear") or 1.0
    kind = said.get("rope.scaling.type", "linear")
    odd = header.get("rope_others") or next((key for key in UNREAD if key in said), None)
    if kind not in ("none", "linear", "yarn") or odd:
        raise ValueError(f"its rotary embeddings are scaled by {odd or kind}: take its safetensors")
    if kind == "none" or factor == 1.0:
        return None
    found = {"rope_type": kind, "factor": float(factor)}
    if kind == "yarn":
        original = said.get("rope.scaling.original_context_length", config.max_position_embeddings)
        found["original_max_position_embeddings"] = int(original)
    return found


def _by_factors(
    header: Mapping[str, Any], config: Any, rope: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Parameters of Llama 3 that explain the tensor of factors; None where there is none."""
    import numpy as np

    factors = np.asarray(header.get("rope_freqs", ()), dtype=np.float64)
    if not (np.abs(factors - 1) > CLOSE).any():
        return None
    head = 2 * len(factors)
    own = head_size(config)
    factor = float(factors.max())
    for original in (ORIGINAL, *_originals(factors, factor, _waves(rope, head))):
        tried = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
            "original_max_position_embeddings": original,
        }  # fmt: skip
        if head == own and np.allclose(llama3_factors({**rope, **tried}, head), factors, rtol=CLOSE):
            return tried
    raise ValueError(
        "its rotary embeddings are scaled by factors that are not Llama 3's: take its safetensors"
    )


def _originals(factors: np.ndarray, factor: float, wave: np.ndarray) -> list[int]:
    """Context lengths by which a factor between the least and the greatest would be Llama 3's."""
    between = (factors > 1 + CLOSE) & (factors < factor * (1 - CLOSE))
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    return [round(length) for length in (smooth * (HIGH - LOW) + LOW) * wave[between]]


def _waves(rope: Mapping[str, Any], head: int) -> np.ndarray:
    """Wavelengths of the rotations in tokens, (head / 2,)."""
    import numpy as np

    return 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
