"""Which bases are built like Llama, so that a layer can be computed in fewer operations.

Seen from their modules, whatever the class is called; whoever computes such a layer in a way of its own
also tries it against the base's own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from rung.bases.quantized import Quantized
from rung.forward.backbone import Backbone

# A layer's projections, those together that read the same input.
GROUPS = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def plain(weight: Any) -> bool:
    """Whether a weight is a tensor of plain numbers."""
    return type(weight) is nn.Parameter


def plain_or_coded(weight: Any) -> bool:
    """Whether a weight is plain numbers, or codes that torch's products can be asked for."""
    return plain(weight) or isinstance(weight, Quantized)


def built_like_llama(backbone: Backbone, readable: Callable[[Any], bool] = plain) -> bool:
    """Whether every layer is two RMS norms, attention with rotary positions and a gated SiLU.

    Args:
        readable: whether whoever asks can compute with a projection's weight.
    """
    base: Any = backbone.base_model
    layers, config = getattr(base, "layers", None), backbone.config
    if not backbone.carries_trie or not layers or len(layers) != len(backbone.layer_names):
        return False
    if not all(hasattr(base, n) for n in ("rotary_emb", "norm")):
        return False
    if getattr(config, "hidden_act", None) != "silu" or _has_window(config):
        return False
    return hasattr(base.norm, "variance_epsilon") and all(_is_plain(x, readable) for x in layers)


def _has_window(config: Any) -> bool:
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


def _is_plain(layer: nn.Module, readable: Callable[[Any], bool]) -> bool:
    """Two norms, and the seven projections of GROUPS with weights that can be read."""
    if {n for n, _ in layer.named_children()} != CHILDREN:
        return False
    modules = dict(layer.named_modules())
    named = [n for names in GROUPS.values() for n in names]
    linear = [modules.get(n) for n in named]
    if not all(type(m) is nn.Linear and readable(m.weight) for m in linear):
        return False
    others = set(modules) - set(named) - CHILDREN - {"", "mlp.act_fn"}
    norms = (modules["input_layernorm"], modules["post_attention_layernorm"])
    return not others and all(hasattr(n, "variance_epsilon") for n in norms)
