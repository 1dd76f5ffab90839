"""Steering: a direction in the residual stream, found from contrasts (arXiv 2310.01405, 2312.06681).

One pass over the pairs gives the states of both sides at every layer; a layer's vector points from the
worse to the better side. Pairs that are answered by a letter are balanced over the letters.

Departs from the papers: several layers share one shift, so each adds its own mean difference divided by
their number.

    rung tune calm --method steering --data contrasts.jsonl --strength 1.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.errors import ArtefactError
from rung.evals import kinds
from rung.methods import base, layers
from rung.methods.workload import PASS_TOKENS, Shape, Workload
from rung.types import Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

MAX_STRENGTH = 100.0  # times the mean difference; beyond it nothing of the base's own is left


@dataclass
class Knobs:
    group: ClassVar[str] = "steering"
    direction: str = knob(
        "mean", "How a layer's direction is found: the mean of the pairs' differences, the first "
        "principal component of them (pca), or the weights of a linear probe (probe).",
        choices=("mean", "pca", "probe"),
    )  # fmt: skip
    steered: list[int] = knob(
        [], "Layers whose output is steered, 0 for the first; the middle third by default.", least=0
    )
    pick_layers: str = knob(
        "middle", "Which layers, where none are named: the middle third, or those that separate pairs "
        "best that were held out (separation).",
        choices=("middle", "separation"),
    )  # fmt: skip
    strength: float = knob(
        1.0, "By how many mean differences answers are shifted; below 0 the other way.",
        least=-MAX_STRENGTH, most=MAX_STRENGTH,
    )  # fmt: skip
    strengths: list[float] = knob(
        [0.0, 0.5, 1.0, 2.0], "Strengths at which effect and damage are measured on held-out pairs.",
        least=-MAX_STRENGTH, most=MAX_STRENGTH,
    )  # fmt: skip


class Method(base.Method):
    summary = "a direction from contrasts, added to layers' outputs"
    paper = "arXiv 2310.01405"
    Config = Knobs
    trained = False
    wants = "pairs"

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        from rung.forward.steer import last_modules

        known = last_modules(bank)
        # The last layer's states are seen behind the final norm, which is another space.
        usable = [n for n in range(bank.layers.count - 1) if n in known]
        if not usable:
            return "no layer was found whose output can be steered: use --method lora"
        foreign = [n for n in config.steered if n not in usable]
        if foreign:
            return (
                f"--steered {foreign[0]} cannot be steered: this base has {usable[0]} to {usable[-1]}"
            )
        return None

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        if not kinds.of(task).compares:
            return f"it needs pairs of a better and a worse text, and this task is {task.kind}"
        return None

    def making(self, config: Knobs, shape: Shape, schedule: base.Schedule) -> Workload:
        tokens = 2.0 * (shape.prompt + shape.reply) * (shape.rows + shape.held)
        return Workload(read=tokens, passes=tokens / PASS_TOKENS)

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.methods.steering import fitting

        return fitting.fit(study, config)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.forward.steer import SteerOp

        tensors, strength = {}, 1.0
        for name, op in adapter.linear.items():
            assert isinstance(op, SteerOp)
            tensors[f"direction.{bank.layers.boundary_of(name)}"] = op.vector
            strength = op.strength
        return {"strength": strength}, tensors

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.steer import SteerOp, last_modules

        strength = settings.get("strength")
        plain = isinstance(strength, (int, float)) and not isinstance(strength, bool)
        if not plain or not abs(float(strength)) <= MAX_STRENGTH:  # type: ignore[arg-type]
            raise ArtefactError(f"settings.json: 'strength' is {strength!r}, no number up to 100")
        known, found = {f"direction.{n}": m for n, m in last_modules(bank).items()}, {}
        for name in tensors:
            if name not in known:
                raise ArtefactError(f"tensor {name} is of no layer of this base that can be steered")
            vector = layers.tensor(tensors, name, (bank.width,))
            found[known[name]] = SteerOp(vector, float(strength))  # type: ignore[arg-type]
        if not found:
            raise ArtefactError("tensor direction.N is missing: no layer is steered")
        return Adapter(linear=found)
