"""GGUF's layout of a causal language model: metadata and tensors by architecture.

The names of tensors are those of the `gguf` package; what is done to their values is what llama.cpp's
loader expects of each architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rung.bases.gguf_rope import head_size, llama3_factors
from rung.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one of transformers' model types stands in a GGUF.

    Attributes:
        arch: llama.cpp's name.
        permuted: whether rows of query and key projections alternate between the halves of a head.
        shifted: whether norms are kept as their difference from one.
        transposed: endings of the names of weights that are stored (in, out).
    """

    arch: str
    permuted: bool = False
    shifted: bool = False
    transposed: tuple[str, ...] = ()


CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
LAYOUTS = {
    "llama": Layout(arch="llama", permuted=True),
    "mistral": Layout(arch="llama", permuted=True),
    "qwen2": Layout(arch="qwen2"),
    "qwen3": Layout(arch="qwen3"),
    "gemma": Layout(arch="gemma", shifted=True),
    "gemma2": Layout(arch="gemma2", shifted=True),
    "gemma3_text": Layout(arch="gemma3", shifted=True),
    "phi3": Layout(arch="phi3"),
    "gpt2": Layout(arch="gpt2", transposed=CONV1D),
}


def layout_of(config: Any) -> Layout:
    """The layout of a model.

    Raises:
        ConfigError: for a model type that is not known here, or what GGUF cannot express of it.
    """
    found = LAYOUTS.get(config.model_type)
    if found is None:
        raise ConfigError(
            f"a base of type {config.model_type} cannot be written as GGUF; known are "
            f"{', '.join(LAYOUTS)}: use --to merged and llama.cpp's own converter"
        )
    if getattr(config, "attention_bias", False) and found.permuted:
        raise ConfigError("GGUF of a llama with biases in attention is not known: use --to merged")
    if config.model_type == "mistral" and getattr(config, "sliding_window", None):
        raise ConfigError(
            "llama.cpp has no sliding window for a base of type mistral, and longer texts would be "
            "answered otherwise: use --to merged"
        )
    return found


# --- metadata -------------------------------------------------------------------------------------


def write_metadata(writer: Any, config: Any, layout: Layout) -> None:
    """Write the shape of the model into a `gguf.GGUFWriter`."""
    width, layers = config.hidden_size, config.num_hidden_layers
    heads = config.num_attention_heads
    head = head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    writer.add_feed_forward_length(inner or 4 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_vocab_size(config.vocab_size)
    if layout.arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    _rope(writer, config, layout, head)
    if layout.arch in ("gemma2", "gemma3", "phi3") and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def rope_of(config: Any) -> dict[str, Any]:
    """The rotary embedding's parameters: of full attention where layers differ."""
    found = dict(
        getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    )
    found = found.get("full_attention") or found
    found.setdefault("rope_type", found.get("type", "default"))
    found.setdefault("rope_theta", getattr(config, "rope_theta", 10_000.0))
    return found


def _rope(writer: Any, config: Any, layout: Layout, head: int) -> None:
    import gguf

    rope = rope_of(config)
    share = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
    if layout.arch not in ("gemma", "gemma2", "gemma3"):
        writer.add_rope_dimension_count(int(head * share))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    kind = rope["rope_type"]
    if kind in ("default", "llama3"):  # llama3's factors are a tensor
        return
    if kind not in ("linear", "yarn"):
        raise ConfigError(f"rotary embeddings of type {kind} cannot be written: use --to merged")
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(int(original))


# --- tensors --------------------------------------------------------------------------------------


def tensors(
    weights: dict[str, Any], config: Any, layout: Layout, tied: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """GGUF's tensors by GGUF's names, in float32.

    Args:
        weights: the model's state by its own names. tied: whether the head is the embeddings.

    Raises:
        ConfigError: for a weight that GGUF has no name for.
    """
    import gguf

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.arch)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    factors = _rope_factors(config)
    if factors is not None:
        yield "rope_freqs.weight", factors
    for name, tensor in weights.items():
        if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")):
            continue  # buffers
        if tied and name == "lm_head.weight":
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ConfigError(f"GGUF has no name for the weight {name} of a {config.model_type}")
        yield known, placed(name, tensor.detach().float().cpu().numpy(), config, layout)


def placed(name: str, values: np.ndarray, config: Any, layout: Layout) -> np.ndarray:
    """One weight as llama.cpp wants it: permuted, shifted or transposed where its layout says so."""
    if layout.permuted and name.endswith(("q_proj.weight", "k_proj.weight")):
        own = config.num_attention_heads
        shared = getattr(config, "num_key_value_heads", None) or own
        return permute(values, own if "q_proj" in name else shared)
    if layout.shifted and name.endswith("norm.weight"):
        return values + 1
    if name.endswith(layout.transposed) and layout.transposed:
        return values.T.copy()
    return values


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows (heads * d, n) reordered from two halves per head to pairs, as llama.cpp rotates them."""
    rows = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return rows.swapaxes(1, 2).reshape(values.shape)


def _rope_factors(config: Any) -> np.ndarray | None:
    """Llama 3's factors by frequency, which GGUF holds as a tensor; None for other models."""
    import numpy as np

    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    return llama3_factors(rope, head_size(config)).astype(np.float32)
