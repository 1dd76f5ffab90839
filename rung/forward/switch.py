"""Switching a base's attention to plans, so that it can run on a trie; tried on a small one."""

from __future__ import annotations

import torch
from torch import Tensor

from rung.forward import attention, padded, selfcheck
from rung.forward.attention import TriePlan
from rung.forward.backbone import Backbone
from rung.forward.trie import Sequence, Trie


@torch.no_grad()
def switch_attention(backbone: Backbone) -> str | None:
    """Have the base attend by plans -> why it cannot; it keeps its own attention then."""
    model = backbone.model
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} brings its own attention"
    own = model.config._attn_implementation
    fault = selfcheck.fault(lambda: _compare(backbone, own), backbone.dtype)
    if fault is not None:
        model.set_attn_implementation(own)
    return fault


def _compare(backbone: Backbone, own_attention: str) -> list[tuple[Tensor, Tensor]]:
    """A small trie through attention by plans, and through the base's own in padded rows."""
    trie, seen = selfcheck.sample(backbone.vocabulary), []
    plan = TriePlan(trie, record=lambda layer, k, v: seen.append(layer))
    embeddings, positions = backbone.embed(trie.ids, plan.slots), trie.positions.to(backbone.device)
    backbone.model.set_attn_implementation("rung")
    _compare_windows(backbone)
    ours = backbone.run_own(embeddings, positions, plan)
    if sorted(seen) != list(range(backbone.config.num_hidden_layers)):
        raise NotImplementedError("not every layer attends through the shared interface")
    backbone.model.set_attn_implementation(own_attention)
    own = padded.forward(backbone, trie, embeddings)
    backbone.model.set_attn_implementation("rung")
    return [(ours, own)]


def _compare_windows(backbone: Backbone) -> None:
    """Raise NotImplementedError where a mask hides what its layer's attention is not told of."""
    told = _Windows()
    with attention.noting_masks() as masked:
        backbone.answer_tiny(told)
    if masked and not told.windows <= masked:
        raise NotImplementedError("its windows stand in masks alone")


class _Windows(TriePlan):
    """A plan of two tokens that notes the windows that layers attend with."""

    def __init__(self) -> None:
        super().__init__(Trie.build([Sequence((0, 1))]))
        self.windows: set[int | None] = set()

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):  # noqa: D102
        self.windows.add(window or None)
        return super().attend(layer, q, k, v, scaling, window, softcap)
