"""Which bases are built like Llama, so that a layer can be computed in fewer operations.

Seen from their modules, whatever the class is called; whoever computes such a layer in a way of its own
also tries it against the base's own forward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from rung.forward.bank import Bank

# A layer's projections, those together that read the same input.
GROUPS = {
    "attention": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def built_like_llama(bank: Bank) -> bool:
    """Whether every layer is two RMS norms, attention with rotary positions and a gated SiLU."""
    layers, backbone = getattr(bank.backbone, "layers", None), bank.backbone
    if not layers or not all(hasattr(backbone, n) for n in ("rotary_emb", "norm")):
        return False
    if getattr(bank.config, "hidden_act", None) != "silu" or _has_window(bank.config):
        return False
    return hasattr(backbone.norm, "variance_epsilon") and all(_is_plain(layer) for layer in layers)


def _has_window(config: Any) -> bool:
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True)


def _is_plain(layer: nn.Module) -> bool:
    """Two norms, and the seven projections of GROUPS with weights that are plain tensors."""
    if {n for n, _ in layer.named_children()} != CHILDREN:
        return False
    modules = dict(layer.named_modules())
    named = [n for names in GROUPS.values() for n in names]
    linear = [modules.get(n) for n in named]
    if not all(type(m) is nn.Linear and type(m.weight) is nn.Parameter for m in linear):
        return False
    others = set(modules) - set(named) - CHILDREN - {"", "mlp.act_fn"}
    norms = (modules["input_layernorm"], modules["post_attention_layernorm"])
    return not others and all(hasattr(n, "variance_epsilon") for n in norms)
