"""Activation checkpointing (arXiv 1604.06174): compute what a layer saw again in the backward pass.

A token then holds what enters each layer and, for one layer at a time, what the layer keeps, in place
of the latter for all layers. Results and gradients are to the bit those of a pass that keeps all of it:
operations are the same, on the plan and the slots of the pass that is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from rung.forward.attention import TriePlan
from rung.forward.backbone import Backbone


def attach(backbone: Backbone) -> Callable[[], None]:
    """Have a base's decoder layers computed again while gradients are wanted -> what undoes it."""
    modules = [backbone.modules[name] for name in backbone.layer_names]
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = _again(backbone, module.forward)

    def detach() -> None:
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward

    return detach


def _again(backbone: Backbone, own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        plan, slots = backbone.plan, backbone.slots
        if not torch.is_grad_enabled() or not isinstance(plan, TriePlan) or plan.record is not None:
            return own(*args, **kwargs)

        def compute(*args: Any) -> Any:
            last = backbone.plan, backbone.slots
            backbone.plan, backbone.slots = plan, slots
            try:
                return own(*args, **kwargs)
            finally:
                backbone.plan, backbone.slots = last

        # Random numbers are those of `dropout`, which follow from the step and the place.
        return checkpoint(compute, *args, use_reentrant=False, preserve_rng_state=False)

    return forward
