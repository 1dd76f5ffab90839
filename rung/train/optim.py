"""AdamW (Loshchilov and Hutter, arXiv 1711.05101) over an adapter's parameters, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rung.train import adamw8bit
from rung.train.knobs import TrainKnobs

EIGHT_BITS = "adamw8bit"  # the knob `optimizer` that keeps moments in 8 bits


def moment_bytes(knobs: TrainKnobs) -> float:
    """What an optimiser keeps of each value that it updates, bytes."""
    return adamw8bit.BYTES if knobs.optimizer == EIGHT_BITS else 8


class Optimizer:
    """AdamW, with moments whole or in 8 bits, clipping and a schedule; its whole state is tensors.

    Args:
        parameters: by stable name.
        steps: how many there will be; the schedule ends at zero after the last one.
        rates: times the learning rate that a parameter learns with, by name; 1 where it is not named.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        knobs: TrainKnobs,
        steps: int,
        rates: Mapping[str, float] | None = None,
    ):
        self.parameters, self.knobs, self.steps = parameters, knobs, steps
        groups: dict[float, list[Tensor]] = {}
        for name, parameter in parameters.items():
            groups.setdefault((rates or {}).get(name, 1.0), []).append(parameter)
        self._rates = list(groups)
        # The fused step goes through memory as it lies, whatever the order of a gradient's.
        self.fused = all(
            p.device.type in ("cpu", "cuda") and p.is_contiguous() for p in parameters.values()
        )
        learning = [{"params": group, "lr": knobs.lr * rate} for rate, group in groups.items()]
        decays: Any = {"betas": (knobs.beta1, knobs.beta2), "weight_decay": knobs.weight_decay}
        self.adamw: torch.optim.Optimizer
        if knobs.optimizer == EIGHT_BITS:
            self.adamw, self.fused = adamw8bit.AdamW8bit(learning, **decays), False
        else:
            self.adamw = torch.optim.AdamW(learning, **decays, fused=self.fused)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = round(self.knobs.warmup * self.steps)
        if step < warm:
            return self.knobs.lr * (step + 1) / warm
        progress = (step - warm) / max(1, self.steps - warm)
        shapes = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }
        return self.knobs.lr * shapes[self.knobs.schedule]

    def step(self, step: int, gradients: list[Tensor], norm: Tensor | None = None) -> float:
        """Clip, update; returns the norm of the gradient before clipping, `norm` where it is known."""
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.get_total_norm(gradients) if norm is None else norm
        torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.knobs.clip, norm)
        for group, rate in zip(self.adamw.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.rate(step)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's moments and counts by `PARAMETER/KIND`."""
        found = {}
        for name, parameter in self.parameters.items():
            for kind, value in self.adamw.state.get(parameter, {}).items():
                found[f"{name}/{kind}"] = value
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for name, parameter in self.parameters.items():
            kinds: dict[str, Any] = {}
            for key, value in state.items():
                owner, _, kind = key.rpartition("/")
                if owner == name:
                    # The unfused kernel counts on the CPU; all else lives beside the parameter.
                    counts = kind == "step" and not self.fused
                    kinds[kind] = value if counts else value.to(parameter.device)
            if kinds:
                self.adamw.state[parameter] = kinds
