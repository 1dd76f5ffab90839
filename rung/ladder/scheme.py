"""What to try next: successive halving over rungs, settings and rows, within the time that is left.

An arm is a rung with settings; a level is a share of its rows (or of a training's steps) with so many
validation rows to measure by. The baseline goes first. Every arm begins at the largest level that fits
its part of the time, the cheapest rung first; then whatever could still become the best gets more
rows, and other settings of good rungs are tried at a low level and only the better ones go on
(Jamieson and Talwalkar 2016; Li et al. 2020 for the asynchronous form).

Everything here follows from costs and figures alone: nothing is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.ladder.arm import GAIN, Arm, Params, missing
from rung.ladder.levels import Level, shares

FIRST = 0.6  # of the time that is left, for arms that have no figure yet
WHOLE = 0.9  # of the time that is left: what one attempt may take where others could follow
SAMPLE = 0.25  # of the time that is left: what a smallest sample may take before shorter steps
SETTINGS_SHARE = 0.25  # of the rows: the level at which settings are told apart
NO_GAIN = 1e-9  # of the metric: what a step that cannot lead counts as gaining
BETWEEN = (0.75, 0.5)  # of a level's share: what is tried where the level itself does not fit
KIN = 2  # trainings with a figure, from which on they tell where others begin
KIN_GAIN = 0.15  # of what is missing to the best possible: how far above them another may begin
AGAIN = 2.0  # times what a smallest sample took in vain: what it is given where nothing else is left
BASELINE = "baseline"  # why a step is taken: before anything else
FIRST_FIGURE = "first"  # the same: its rung has none yet
OTHER_SETTINGS = "settings"  # the same: to tell settings apart
MORE_ROWS = "more rows"  # the same: its rung is good, or may be, with more of them


@dataclass(frozen=True)
class Step:
    """The next attempt. `seconds` is what it is expected to take, `why` one word for tables."""

    key: str
    params: Params
    level: Level
    seconds: float
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a store, without the key."""
        level = [self.level.share, self.level.held]
        return {
            "params": dict(self.params), "level": level, "seconds": self.seconds, "why": self.why,
        }  # fmt: skip

    @classmethod
    def of(cls, key: str, kept: Mapping[str, Any]) -> Step:
        """From what `as_dict` gave."""
        params = tuple(sorted(kept["params"].items()))
        return cls(key, params, Level(*kept["level"]), kept["seconds"], kept["why"])


@dataclass(frozen=True)
class Standing:
    """What the climb knows when it decides.

    Attributes:
        left: seconds for further attempts.
        cleared: total cost of the cheapest rung that clears the bar; None where none does.
        doubted: rungs that clear it on too few validation rows to be sure; they have more first.
        everything: whether to go on until all arms are whole.
        best_possible: of the metric, its sign turned.
        busy: rungs that are being tried elsewhere, of which nothing else is tried meanwhile.
        workers: how many attempts are made side by side.
    """

    left: float
    cleared: float | None = None
    doubted: frozenset[str] = frozenset()
    everything: bool = False
    best_possible: float | None = 1.0
    busy: frozenset[str] = frozenset()
    workers: int = 1


def next_step(arms: Sequence[Arm], now: Standing) -> Step | None:
    """The attempt to make next, None where nothing is left that is worth the time or fits it."""
    live = [a for a in arms if not a.failed]
    for arm in live:
        if arm.baseline and not arm.outcomes and arm.key not in now.busy:
            level = arm.levels[-1]
            return Step(arm.key, arm.params, level, arm.cost(level), BASELINE)
    within = [a for a in arms if now.everything or now.cleared is None or a.total < now.cleared]
    wanted = [a for a in within if not a.failed]
    if sure := _fitting(_making_sure(wanted, now), now):
        return min(sure, key=lambda s: (s.seconds, s.key))
    fitting = _fitting([*_first(wanted, now), *_more(wanted, now)], now)
    # What else there is waits for these: it would take their time.
    if not any(_gain(step, within, now) > 0 for step in fitting):
        fitting += _fitting([*_samples(_waiting(wanted)), *_settings(wanted, now)], now)
    fitting = fitting or _fitting(_samples(_unmeasured(wanted)), now)
    fitting = fitting or _fitting(_again(within), now)
    return _best(fitting, within, now) if fitting else None


def _fitting(steps: Sequence[Step], now: Standing) -> list[Step]:
    """Those that fit the time that is left, of rungs that nobody is busy with."""
    return [step for step in steps if step.seconds <= now.left and step.key not in now.busy]


def _best(options: Sequence[Step], arms: Sequence[Arm], now: Standing) -> Step:
    """What takes the least seconds for each point that it may gain over the best; of rungs without a
    figure, the one that is the cheapest in all.

    By seconds alone short steps of rungs far below the best would eat the time of the longer one that
    could surpass it, and a rung of hours could have the first sample and one of a minute none.
    """
    order = {a.key: (not a.reference, a.total) for a in arms}
    first = min(
        (o for o in options if o.why == FIRST_FIGURE), key=lambda o: (order[o.key], o.seconds, o.key),
        default=None,
    )  # fmt: skip
    others = [o for o in options if o.why != FIRST_FIGURE]
    return min(
        [*others, *([first] if first else [])],
        key=lambda o: (o.seconds / max(_gain(o, arms, now), NO_GAIN), o.key),
    )


def _arm_of(step: Step, arms: Sequence[Arm]) -> Arm:
    return next(a for a in arms if (a.key, a.params) == (step.key, step.params))


def _gain(step: Step, arms: Sequence[Arm], now: Standing) -> float:
    """How far the figure that comes of a step may be above the best one, on the hopeful side."""
    best = leader(arms)
    if best is None:
        return 1.0
    assert best.top is not None and best.top.value is not None
    arm = _arm_of(step, arms)
    if step.why == FIRST_FIGURE:
        gain = GAIN * missing(best.top.value, now.best_possible)
        kin = [a for a in arms if a.trained and not a.fresh and a.default and a is not arm]
        begun = [o.value for a in kin for o in a.figures[:1] if o.value is not None]
        if arm.trained and len(begun) >= KIN:  # trainings begin alike: far below, or not
            hope = max(begun) + KIN_GAIN * missing(max(begun), now.best_possible)
            gain = min(gain, hope - best.top.value)
        return gain
    own = next((a for a in arms if a.key == step.key and a.default), arm)
    hope = (arm if arm.figures else own).hope(step.level, now.best_possible)
    if step.why == OTHER_SETTINGS:
        hope += GAIN * missing(hope, now.best_possible)
    return hope - best.top.value


def _making_sure(arms: Sequence[Arm], now: Standing) -> list[Step]:
    """The next levels with more validation rows of rungs that clear the bar on too few of them."""
    found = []
    for arm in arms:
        if arm.key in now.doubted and arm.top is not None and _leads_its_rung(arm, arms):
            more = [v for v in arm.above() if v.held > arm.top.level.held]
            found += [Step(arm.key, arm.params, v, arm.cost(v), MORE_ROWS) for v in more[:1]]
    return found


def _waiting(arms: Sequence[Arm]) -> list[Arm]:
    """Arms that are to have a first figure; some have none before another one is whole."""
    unfinished = {a.key for a in arms if a.default and not a.failed and not a.whole}
    return [a for a in _unmeasured(arms) if a.before not in unfinished]


def _unmeasured(arms: Sequence[Arm]) -> list[Arm]:
    """Arms with their rung's own settings that may still get a first figure."""
    return [a for a in arms if a.default and not a.figures and not a.failed]


def _samples(arms: Sequence[Arm]) -> list[Step]:
    """The smallest samples of arms without a figure, however much of the time they take."""
    return [Step(a.key, a.params, a.begins[0], a.cost(a.begins[0]), FIRST_FIGURE) for a in arms]


def _again(arms: Sequence[Arm]) -> list[Step]:
    """The smallest samples of arms of which even these were late, in more time than they had."""
    found = []
    for arm in arms:
        if not arm.default or not arm.outcomes or not all(o.late for o in arm.outcomes):
            continue
        seconds = max(AGAIN * max(o.took for o in arm.outcomes), arm.cost(arm.levels[0]))
        found.append(Step(arm.key, arm.params, arm.levels[0], seconds, FIRST_FIGURE))
    return found


def first_levels(arms: Sequence[Arm], now: Standing) -> dict[str, Level | None]:
    """By key the level at which each arm without a figure would begin; None where not even its lowest
    fits."""
    waiting = _waiting(arms)
    reserve = _reserve(arms, now)
    part = shares(
        {a.key: a.cost(a.levels[-1]) for a in waiting}, FIRST * now.workers * (now.left - reserve)
    )
    found: dict[str, Level | None] = {}
    for arm in waiting:
        fitting = [v for v in arm.begins if arm.cost(v) <= part[arm.key]]
        lowest = arm.begins[0]
        affordable = arm.cost(lowest) <= SAMPLE * now.left or (
            len(waiting) == 1 and arm.cost(lowest) <= now.left
        )
        found[arm.key] = fitting[-1] if fitting else (lowest if affordable else None)
    return found


def _first(arms: Sequence[Arm], now: Standing) -> list[Step]:
    begins = first_levels(arms, now)
    return [
        Step(a.key, a.params, level, a.cost(level), FIRST_FIGURE)
        for a in arms
        if a.default and not a.figures and (level := begins.get(a.key)) is not None
    ]


def _more(arms: Sequence[Arm], now: Standing) -> list[Step]:
    """More rows for the best, and for what may yet beat it."""
    best = leader(arms)
    found = []
    for arm in arms:
        above, top = arm.above(), arm.top
        if top is None or not above:
            continue
        hopeful = best is None or arm is best or _hopeful(arm, best, now)
        if not (hopeful or now.everything) or not _leads_its_rung(arm, arms):
            continue
        within = [v for v in _parts(arm, 2 * top.level.share) if arm.cost(v) <= WHOLE * now.left]
        level = within[-1] if within else _between(arm, above[0], now.left)
        found.append(Step(arm.key, arm.params, level, arm.cost(level), MORE_ROWS))
    return found


def _parts(arm: Arm, least: float) -> list[Level]:
    """The levels above the top one, and those parts of them that were not tried and have a share of
    `least` at least."""
    found, tried = arm.above(), [o.level for o in arm.outcomes]
    parts = [Level(part * v.share, v.held) for v in found for part in BETWEEN]
    found += [v for v in parts if v.share >= least and v not in tried]
    return sorted(found, key=lambda v: (v.share, v.held))


def _between(arm: Arm, above: Level, left: float) -> Level:
    """The level above the top one, or a part of it where that alone fits: twice the rows at least."""
    assert arm.top is not None
    if arm.cost(above) <= left:
        return above
    tried = [o.level for o in arm.outcomes]
    for held in (above.held, arm.top.level.held):
        for part in BETWEEN:
            found = Level(part * above.share, held)
            if found.share < 2 * arm.top.level.share or found in tried:
                continue
            if arm.cost(found) <= left:
                return found
    return above


def _settings(arms: Sequence[Arm], now: Standing) -> list[Step]:
    """Other settings of rungs whose own settings do well, at a low level first."""
    best = leader(arms)
    found = []
    for arm in arms:
        own = next((a for a in arms if a.default and a.key == arm.key), None)
        if arm.default or arm.outcomes or own is None or own.top is None:
            continue
        if best is not None and not _settings_may_win(own, best, now):
            continue
        level = _settings_level(own)
        for one in (own, arm):
            if level not in [o.level for o in one.outcomes]:
                found.append(Step(one.key, one.params, level, one.cost(level), OTHER_SETTINGS))
                break
    return found


def _settings_level(own: Arm) -> Level:
    """The highest level of at most a quarter of the rows; the lowest one where all are above that."""
    assert own.top is not None
    tried = own.top.level.share
    low = [v for v in own.levels if v.share <= min(tried, SETTINGS_SHARE)]
    return low[-1] if low else own.levels[0]


def _leads_its_rung(arm: Arm, arms: Sequence[Arm]) -> bool:
    """Whether none of the rung's other settings did better at the highest level both were tried at."""
    mine = {o.level: o.value for o in arm.figures}
    for other in arms:
        if other is arm or other.key != arm.key:
            continue
        shared = [o for o in other.figures if o.level in mine]
        if shared and shared[-1].value > mine[shared[-1].level]:  # type: ignore[operator]
            return False
    return True


def _hopeful(arm: Arm, best: Arm, now: Standing) -> bool:
    """Whether with all rows it may be better than the best is now."""
    assert best.top is not None and best.top.value is not None
    return arm.potential(now.best_possible) > best.top.value


def _settings_may_win(own: Arm, best: Arm, now: Standing) -> bool:
    """Whether other settings of a rung may beat the best: they are given the gain of a level more."""
    assert own.top is not None and own.top.value is not None
    assert best.top is not None and best.top.value is not None
    hope = max(own.potential(now.best_possible), own.top.value)
    return hope + GAIN * missing(hope, now.best_possible) > best.top.value


def leader(arms: Sequence[Arm]) -> Arm | None:
    """The arm with the best figure at its highest level."""
    known = [a for a in arms if a.top is not None]
    return max(known, key=lambda a: a.top.value) if known else None  # type: ignore[union-attr,arg-type,return-value]


def _reserve(arms: Sequence[Arm], now: Standing) -> float:
    """Seconds that giving the best so far all its rows would take, if that can be afforded."""
    best = leader(arms)
    if best is None or best.whole or not best.above():
        return 0.0
    seconds = best.cost(best.levels[-1])
    return seconds if seconds <= WHOLE * now.left else 0.0
