"""Rollouts: answers of the weights as they are, drawn by the engine in the same process, and scored.

A draw is a function of seed, step and weights; a run that is killed and resumed draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from rung.engine.sampler import narrow
from rung.forward.adapter import Adapter
from rung.forward.loss import Keep
from rung.forward.packing import pack
from rung.forward.policy import Policy
from rung.forward.trie import Sequence as Tokens
from rung.objectives.base import Row, Setting
from rung.objectives.drawer import Drawer, Drawn
from rung.rewards import Answer, Reward, scored
from rung.types import Decoding

if TYPE_CHECKING:
    from rung.forward.bank import Bank

PASS_TOKENS = 8192  # of passes without gradients over what was drawn


def kept_by(decoding: Decoding) -> Keep | None:
    """What a way of drawing may draw, as a function of probabilities; None where that is everything."""
    if decoding.top_k <= 0 and decoding.top_p >= 1 and decoding.min_p <= 0:
        return None

    def keep(probabilities: Tensor) -> Tensor:
        rows = len(probabilities)
        left = narrow(
            probabilities.clone(),
            top_k=torch.full((rows,), decoding.top_k, device=probabilities.device),
            top_p=probabilities.new_full((rows,), decoding.top_p),
            min_p=probabilities.new_full((rows,), decoding.min_p),
        )
        return left > 0

    return keep


class Learner(Protocol):
    """What a source of rollouts asks of the objective that learns from them.

    Attributes:
        config: its knobs, those of drawing among them.
        grouped: an answer is held against others to the same prompt.
    """

    config: Any
    grouped: ClassVar[bool]

    @property
    def answers(self) -> int: ...
    def decoding(self, temperature: float | None = None) -> Decoding: ...
    def control(self) -> dict[str, float]: ...
    def learnt(
        self,
        source: RolloutSource,
        prompts: Sequence[Row],
        groups: Sequence[Sequence[Drawn]],
        scores: Sequence[Sequence[float | None]],
        figures: Mapping[str, float],
    ) -> list[Row]:
        """Rows of one draw, with what the loss needs of every token."""
        ...


def sequences_of(prompt: Row, answers: Sequence[Drawn]) -> tuple[Tokens, ...]:
    """A prompt with each of its answers, whose tokens are to be predicted."""
    ids = tuple(prompt.ids.tolist())
    return tuple(Tokens((*ids, *one.ids), (*(False,) * len(ids), *one.own)) for one in answers)


@torch.no_grad()
def over_tokens(
    bank: Bank, slot: int, groups: Sequence[Sequence[Tokens]], of: Callable[[Policy], Tensor]
) -> list[np.ndarray]:
    """Compute a figure of every drawn token in passes without gradients, (M,) for each group.

    Args:
        of: gives the figures of a policy's edges, (E,).
    """
    found: list[np.ndarray] = [np.empty(0)] * len(groups)
    sizes = [sum(len(s) for s in group) for group in groups]
    for chosen in pack([group[0].ids for group in groups], PASS_TOKENS, sizes):
        policy = Policy(bank, [s for i in chosen for s in groups[i]], slot)
        figures, edges = of(policy).double().cpu().numpy(), iter(policy.edges)
        for i in chosen:
            found[i] = np.concatenate([figures[next(edges)] for _ in groups[i]])
    return found


class RolloutSource:
    """Rows that are drawn from the weights as they are; each draw is learnt from so many times.

    Args:
        reference: the adapter that divergences are measured from; None takes the bare base.
    """

    fixed = False

    def __init__(self, objective: Learner, setting: Setting, reward: Reward, reference: Adapter | None):
        self.objective, self.setting, self.reward = objective, setting, reward
        self.updates = objective.config.updates
        self.drawer = Drawer(setting, objective.answers)
        self.control = objective.control()
        self.reference = -1 if reference is None else setting.bank.add(reference)
        self._made: tuple[int, list[Row]] | None = None  # the number of the last draw, and its rows
        self._control_before = dict(self.control)  # as it was when that was drawn
        self._told: set[str] = set()

    @property
    def per_epoch(self) -> int:
        return self.setting.shuffled.per_epoch * self.updates

    def steps(self, epochs: float, most: int | None) -> int:
        total = max(1, round(epochs * self.per_epoch))
        return min(total, most) if most else total

    @property
    def slot(self) -> int:
        """Of the adapter that is trained."""
        adapters = self.setting.bank.adapters.items()
        return next(s for s, adapter in adapters if adapter is self.setting.adapter)

    def rows(self, step: int) -> list[Row]:
        draw = step // self.updates
        if self._made is None or self._made[0] != draw:
            self._control_before = dict(self.control)
            prompts = self.setting.shuffled.rows(draw)
            self._made = draw, self._draw(prompts, draw)
        return self._made[1]

    def _draw(self, prompts: Sequence[Row], draw: int) -> list[Row]:
        config, slot = self.objective.config, self.slot
        seed = (self.setting.seed, draw)
        groups = self.drawer.draw(
            prompts, slot, self.objective.answers, self.objective.decoding(), seed
        )
        scores = self.score(prompts, groups)
        figures = figures_of(groups, scores)
        if not self.objective.grouped:
            figures = _without_groups(figures)
        self._tell(figures, config.answer_tokens)
        return self.objective.learnt(self, prompts, groups, scores, figures)

    def score(
        self, prompts: Sequence[Row], groups: Sequence[Sequence[Drawn]]
    ) -> list[list[float | None]]:
        """The rewards of all answers, scored together."""
        answers = [
            Answer(
                prompt=row.extra["prompt"], gold=row.extra["gold"], columns=row.extra["columns"],
                text=one.text, tokens=one.tokens, truncated=one.truncated,
            )
            for row, group in zip(prompts, groups, strict=True)
            for one in group
        ]  # fmt: skip
        found = iter(scored(self.reward, answers))
        return [[next(found) for _ in group] for group in groups]

    def measured(self, rows: Sequence[Row], slot: int) -> Sequence[Row]:
        """Greedy answers of a slot to held-out prompts, with their rewards."""
        if not rows:
            return rows
        decoding = self.objective.decoding(temperature=0.0)
        groups = self.drawer.draw(rows, slot, 1, decoding, (self.setting.seed,))
        figures = _without_groups(figures_of(groups, self.score(rows, groups)))
        if figures["unscored"] == 1:  # a reward of 0 would be a figure, perhaps the best of all
            self._once("no held-out answer could be scored: they tell nothing; see --reward")
            figures = {name: value for name, value in figures.items() if "reward" not in name}
        return [
            Row(sequences=sequences_of(row, group), weight=1.0, origin=row.origin,
                extra={"figures": figures, "measured": True})
            for row, group in zip(rows, groups, strict=True)
        ]  # fmt: skip

    def _tell(self, figures: Mapping[str, float], tokens: int) -> None:
        """Say once each what keeps a step from learning."""
        if figures["truncated"] == 1:
            self._once(
                f"every answer of a step was cut off at {tokens} tokens"
                + (": it teaches nothing" if self.objective.config.mask_truncated else "")
                + "; raise --answer-tokens"
            )
        if self.objective.grouped and figures["dead_groups"] == 1:
            self._once("no group of a step has two scored answers: it teaches nothing; see --reward")
        elif self.objective.grouped and figures["dead_groups"] + figures["flat_groups"] == 1:
            self._once(
                "all answers of each group of a step have the same reward: it teaches nothing; take "
                "easier prompts, a finer --reward, or more --answers"
            )

    def _once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.setting.note(text)

    # --- checkpoints ------------------------------------------------------------------------------

    def state(self, step: int) -> dict[str, Tensor]:
        """The rows of a draw that is not learnt from to the end, and what controls the divergence."""
        begun = self._made is not None and self._made[0] == step // self.updates
        again = begun and step % self.updates == 0  # these rows will be drawn anew
        control = self._control_before if again else self.control
        found = {f"control.{k}": torch.tensor([v], dtype=torch.float64) for k, v in control.items()}
        if self._made is not None and begun and not again:
            found |= {k: v for i, row in enumerate(self._made[1]) for k, v in _packed(i, row).items()}
        return found

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        self.control |= {
            name.removeprefix("control."): float(value)
            for name, value in state.items()
            if name.startswith("control.")
        }
        rows = _unpacked(state)
        if rows:
            self._made = step // self.updates, rows
            self.drawer.prepare()  # as the run had that drew them: weights then multiply in other bits

    def close(self) -> None:
        self.reward.close()
        if self.reference >= 0:
            self.setting.bank.remove(self.reference)


def figures_of(
    groups: Sequence[Sequence[Drawn]], scores: Sequence[Sequence[float | None]]
) -> dict[str, float]:
    """What a draw looks like: rewards, lengths, and groups that teach nothing."""
    known = [[s for s in group if s is not None] for group in scores]
    every = [s for group in known for s in group]
    drawn = [one for group in groups for one in group]
    dead = sum(len(group) < 2 for group in known)
    flat = sum(len(group) >= 2 and max(group) == min(group) for group in known)
    calls = [one.calls for one in drawn if one.calls is not None]
    return {
        **({"calls": float(np.mean(calls))} if calls else {}),
        "reward": float(np.mean(every)) if every else 0.0,
        "reward_deviation": float(np.std(every)) if every else 0.0,
        "answer_tokens": float(np.mean([one.tokens for one in drawn])),
        "truncated": float(np.mean([one.truncated for one in drawn])),
        "unscored": 1 - len(every) / len(drawn),
        "dead_groups": dead / len(groups),
        "flat_groups": flat / len(groups),
    }


def _without_groups(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that mean something where answers are not held against each other."""
    return {name: value for name, value in figures.items() if not name.endswith("_groups")}


def _packed(i: int, row: Row) -> dict[str, Tensor]:
    """A drawn row as tensors of a checkpoint."""
    found: dict[str, Any] = {
        "ids": np.concatenate([s.ids for s in row.sequences]),
        "lengths": np.array([len(s) for s in row.sequences]),
        "supervised": np.concatenate([_supervised(s) for s in row.sequences]),
        "origin": np.frombuffer(row.origin.encode() or b"\0", dtype=np.uint8).copy(),
    }
    for name, value in row.extra.items():
        if name == "figures":
            found |= {f"figures.{k}": np.array([v], dtype=np.float64) for k, v in value.items()}
        else:
            found[name] = value
    return {f"row.{i:06d}.{name}": torch.from_numpy(array.copy()) for name, array in found.items()}


def _supervised(sequence: Tokens) -> np.ndarray:
    assert sequence.supervised is not None
    return sequence.supervised


def _unpacked(state: Mapping[str, Tensor]) -> list[Row]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in state.items():
        kind, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if kind == "row":
            found.setdefault(number, {})[name] = tensor.cpu().numpy()
    return [_row_of(parts) for _, parts in sorted(found.items())]


def _row_of(parts: dict[str, np.ndarray]) -> Row:
    lengths = parts.pop("lengths")
    if "prompt" in parts:  # of a run that was begun before answers held what tools gave
        prompts = zip(lengths, parts.pop("prompt"), strict=True)
        parts["supervised"] = np.concatenate([np.arange(n) >= prompt for n, prompt in prompts])
    ends = np.cumsum(lengths)[:-1]
    pieces = zip(np.split(parts.pop("ids"), ends), np.split(parts.pop("supervised"), ends), strict=True)
    sequences = tuple(Tokens(tuple(ids.tolist()), tuple(mask.tolist())) for ids, mask in pieces)
    origin = parts.pop("origin").tobytes().rstrip(b"\0").decode()
    figures = {k.removeprefix("figures."): float(v[0]) for k, v in parts.items() if "." in k}
    extra = {k: v for k, v in parts.items() if "." not in k}
    return Row(sequences=sequences, weight=1.0, origin=origin, extra={**extra, "figures": figures})
