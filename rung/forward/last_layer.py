"""The last layer, only where something is read from it.

Above the last layer nothing attends any more, so its queries, its output projection and its
feed-forward part matter only at the tokens that something is predicted from; the others give their
keys and values. With a label behind each prompt that is one token in ten. The layer's own forward runs
twice: over all tokens until it has keys and values, then over the chosen tokens with those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.forward.attention import TriePlan
from rung.forward.backbone import Backbone
from rung.forward.slots import Slots

MAX_SCORES = 1 << 21  # queries x keys of one dense call of attention
MAX_SHARE = 0.3  # of the tokens that are read; above it, running the layer twice gains little


def worthwhile(sources: np.ndarray, tokens: int) -> bool:
    """Whether so few tokens are read that it pays."""
    return 0 < len(sources) <= MAX_SHARE * tokens and len(sources) * tokens <= MAX_SCORES


def run_at(
    backbone: Backbone,
    at: np.ndarray,
    own: Callable[..., Any],
    x: Tensor,
    args: tuple,
    kwargs: dict[str, Any],
) -> Any:
    """What a layer answers at some of a trie's tokens.

    Args:
        at: ascending indices of tokens.
        own: the layer's forward; x (1, T, d) is what enters it, `args` and `kwargs` the rest.

    Returns:
        (1, T, d), zero at all other tokens, in a tuple where the layer answers with one.

    Raises:
        NotImplementedError: where its attention is not the trie's.
    """
    plan, tokens = backbone.plan, x.shape[1]
    assert isinstance(plan, TriePlan)
    here = torch.from_numpy(at).to(x.device)
    try:
        few = _Few(plan, at, *_keys_values(backbone, plan, lambda: own(x, *args, **kwargs)))
        backbone.plan, backbone.slots = few, few.slots
        out = own(
            x[:, here],
            *(_pick(a, here, tokens) for a in args),
            **{name: _pick(a, here, tokens) for name, a in kwargs.items()},
        )
    finally:
        backbone.plan, backbone.slots = plan, plan.slots
    if isinstance(out, tuple):
        return (_spread(out[0], here, tokens), *out[1:])
    return _spread(out, here, tokens)


class _EnoughError(Exception):
    """Keys and values are there: the rest of the layer need not run."""


class _Keys:
    """A plan that ends the pass where attention begins."""

    one_token_per_lane = False

    def __init__(self, slots: Slots):
        self.slots = slots
        self.found: tuple[Tensor, Tensor] | None = None

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):  # noqa: D102
        self.found = (k, v)
        raise _EnoughError


class _Few:
    """A plan of queries at some tokens, and keys and values (1, Hkv, T, hd) of all."""

    one_token_per_lane = False

    def __init__(self, plan: TriePlan, at: np.ndarray, keys: Tensor, values: Tensor):
        if plan.in_front:
            raise NotImplementedError("keys and values in front")
        self.slots = Slots(plan.slots.of_token[at])
        self.keys, self.values = keys, values
        self.visible = (plan.start <= at[:, None]) & (at[:, None] < plan.end)  # (queries, T)
        self.apart = plan.depth[at][:, None] - plan.depth  # (queries, T)

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):  # noqa: D102
        if softcap is not None:
            raise NotImplementedError("soft-capped scores")
        visible = self.visible & (self.apart < window) if window else self.visible
        mask = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(
            torch.from_numpy(~visible), float("-inf")
        )
        out = F.scaled_dot_product_attention(
            q, self.keys, self.values, attn_mask=mask.to(q.device), scale=scaling,
            enable_gqa=q.shape[1] != self.keys.shape[1],
        )  # fmt: skip
        return out.transpose(1, 2)


def _keys_values(backbone: Backbone, plan: TriePlan, run: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    backbone.plan = keys = _Keys(plan.slots)
    with contextlib.suppress(_EnoughError):
        run()
    if keys.found is None:
        raise NotImplementedError("the last layer does not attend through the trie")
    return keys.found


def _pick(value: Any, here: Tensor, tokens: int) -> Any:
    """An argument of the layer for some tokens alone: positions, rotary embeddings and the like."""
    if isinstance(value, (tuple, list)):
        return type(value)(_pick(v, here, tokens) for v in value)
    if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == (1, tokens):
        return value[:, here]
    return value


def _spread(out: Tensor, here: Tensor, tokens: int) -> Tensor:
    return out.new_zeros(1, tokens, out.shape[-1]).index_copy(1, here, out)
