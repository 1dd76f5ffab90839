"""What is tried in which order, and what training must not see."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rung.redteam import transforms
from rung.redteam.attacks import Attack
from rung.redteam.target import Attempt

HELD = 1 / 3  # share of categories and of transformations that training does not see
HARMLESS_EACH = 4  # attacks to a harmless prompt, at most, while there are any
PLAIN = "plain"
# Groups of attempts by what training has seen of them, the least seen first.
GROUPS = ("both unseen", "unseen category", "unseen transformation", "seen")


@dataclass(frozen=True, kw_only=True)
class Held:
    """What training must not see.

    Attributes:
        attacks: turns of held-out prompts, where there is one category alone.
        harmless: turns of harmless prompts on which over-refusal is measured.
    """

    categories: frozenset[str]
    transforms: frozenset[str]
    attacks: frozenset[tuple[str, ...]]
    harmless: frozenset[tuple[str, ...]]

    def group(self, attempt: Attempt) -> str:
        """One of `GROUPS`."""
        category = attempt.attack.category in self.categories or attempt.attack.turns in self.attacks
        transform = attempt.transform in self.transforms
        if category:
            return GROUPS[0] if transform else GROUPS[1]
        return GROUPS[2] if transform else GROUPS[3]


def attempts(
    attacks: Sequence[Attack], harmless: Sequence[Attack], names: Sequence[str], seed: int
) -> list[Attempt]:
    """Every prompt under every transformation, cells of category and transformation in turn.

    However early time ends, each cell has then been tried about as often as the others. Prompts of
    several turns are already what somebody made of them: they are not transformed.
    """
    cells: dict[tuple[str, str], list[Attempt]] = {}
    for attack in attacks:
        for name in names if len(attack.turns) == 1 else (PLAIN,):
            turns = transforms.get(name).turns(attack.goal) if len(attack.turns) == 1 else attack.turns
            cells.setdefault((attack.category, name), []).append(
                Attempt(attack=attack, transform=name, turns=turns)
            )
    tame = [Attempt(attack=a, transform=PLAIN, turns=a.turns, harmless=True) for a in harmless]
    generator = random.Random(seed)
    for cell in cells.values():
        generator.shuffle(cell)
    order = list(cells.values())
    generator.shuffle(order)
    longest = max(map(len, order), default=0)
    tried = [cell[i] for i in range(longest) for cell in order if i < len(cell)]
    return _mixed(tried, tame)


def hold_out(
    attacks: Sequence[Attack], harmless: Sequence[Attack], names: Sequence[str], seed: int
) -> Held:
    """Choose what training must not see: a third of categories and transformations, half of harmless.

    The plain prompt is always trained on. Of one category alone a third of the prompts is held out.
    """
    generator = random.Random(seed)
    categories = _some(sorted({a.category for a in attacks}), generator)
    prompts: list[tuple[str, ...]] = []
    if not categories:
        prompts = _some(sorted({a.turns for a in attacks}), generator)
    wrapped = sorted(set(names) - {PLAIN})
    held = _some(wrapped, generator) or (wrapped if PLAIN in names else [])
    tame = sorted({a.turns for a in harmless})
    generator.shuffle(tame)
    return Held(
        categories=frozenset(categories), transforms=frozenset(held),
        attacks=frozenset(prompts), harmless=frozenset(tame[: (len(tame) + 1) // 2]),
    )  # fmt: skip


def _some(values: list, generator: random.Random) -> list:
    """A third of the values, at least one; none of fewer than two."""
    if len(values) < 2:
        return []
    values = list(values)
    generator.shuffle(values)
    return values[: max(1, round(HELD * len(values)))]


def _mixed(tried: list[Attempt], tame: list[Attempt]) -> list[Attempt]:
    """Harmless prompts among attacks, early enough to be tried where time ends first."""
    if not tame:
        return tried
    apart = min(HARMLESS_EACH, len(tried) / len(tame))
    placed = [(i + 0.5, one) for i, one in enumerate(tried)]
    placed += [((i + 0.5) * apart, one) for i, one in enumerate(tame)]
    return [one for _, one in sorted(placed, key=lambda p: p[0])]
