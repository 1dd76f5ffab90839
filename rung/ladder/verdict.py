"""What a climb may say: sentences that each follow from what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rung.evals import metrics
from rung.evals.compare import compare
from rung.evals.intervals import detectable
from rung.evals.measure import Measured
from rung.evals.metrics.wins import EQUAL_LENGTH, LONGER, OTHER_REPEATS, REPEATS, SECOND
from rung.ladder.arms import Outlook
from rung.ladder.attempts import attempts_of
from rung.ladder.bar import Bar
from rung.ladder.choice import Choice, Standing, beats
from rung.store.climbs import RungRecord
from rung.types import Task

LENGTH_GAIN = 0.02  # of a win rate, by which the one at equal length must be less to be told
REPEATS_MORE = 0.1  # of an answer's word sequences, by which it must repeat itself more to be told


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a verdict may speak of.

    Attributes:
        test: figures on the test rows, by rung. test_of: how many test rows there are.
        records: every row of the table. baseline, base: the keys of these rows.
        budget: as the user gave it. seconds: the same. used: seconds that are gone.
        outlook: what rungs may still come to. stopped: whether the user ended the climb.
    """

    bar: Bar | None
    task: Task
    chosen: Choice
    test: Mapping[str, Measured]
    records: Sequence[RungRecord]
    baseline: str | None
    base: str
    budget: str
    seconds: float
    used: float
    outlook: Sequence[Outlook] = ()
    stopped: bool = False
    test_of: int = 0
    best_possible: float | None = 1.0

    @property
    def winner(self) -> Standing:
        assert self.chosen.winner is not None
        return self.chosen.winner

    @property
    def own(self) -> Measured | None:
        """The winner on the test rows."""
        return self.test.get(self.winner.key)

    def record(self, key: str) -> RungRecord | None:
        return next((r for r in self.records if r.key == key), None)

    @property
    def doubted(self) -> bool:
        """Whether the winner's figure clears the bar on too few validation rows to count."""
        cleared = self.bar is not None and self.bar.cleared(self.winner.measured.value)
        return cleared and not self.chosen.cleared

    @property
    def closest(self) -> Standing:
        """The best figure of as many validation rows as the winner's, which may be a dearer one's."""
        found = self.winner
        for one in self.chosen.standings:
            sure = one.measured.n >= self.winner.measured.n and one.only is None
            if sure and one.measured.better(found.measured):
                found = one
        return found

    @property
    def untried(self) -> list[str]:
        """Rungs without a figure for want of time: they fit, and were not measured."""
        return [
            r.key for r in self.records
            if r.method and "validation" not in r.metrics and r.predicted and r.status != "failed"
        ]  # fmt: skip

    @property
    def begun(self) -> list[str]:
        """Those of them whose time was over before they had been measured."""
        late = [
            r.key for r in self.records if any(a.late and a.measured is None for a in attempts_of(r))
        ]
        return [key for key in self.untried if key in late]

    @property
    def tried(self) -> list[str]:
        return [s.key for s in self.chosen.standings]


Sentence = Callable[[Evidence], str | None]


def says(seen: Evidence) -> str:
    """The verdict in a few sentences."""
    if seen.chosen.winner is None:
        return nothing_tried(seen) or ""
    return " ".join(s for one in VERDICT if (s := one(seen)))


def nothing_tried(seen: Evidence) -> str | None:
    """Needs: no rung has a figure."""
    if seen.chosen.winner is not None:
        return None
    failed = [r.key for r in seen.records if r.status == "failed"]
    if failed and not seen.untried:
        return f"No rung gave a figure: {', '.join(failed)} failed, as the table says."
    if seen.untried:
        return f"No rung was tried within --budget {seen.budget}: nothing can be said of them."
    return "No rung could be tried: the table says why."


def figure_told(seen: Evidence) -> str | None:
    """The winner's figure, on the test rows where they were asked, else on validation."""
    own, key = seen.own, seen.winner.key
    if own is not None:
        part = f"{own.n} test rows" if own.n >= seen.test_of else (
            f"{own.n} of {seen.test_of:,} test rows, as many as time allowed"
        )  # fmt: skip
        return f"{key}: {own.metric} {_interval(own, seen.bar)} on {part}."
    measured = seen.winner.measured
    shown = _interval(measured, seen.bar)
    why = "The climb was stopped; the best so far is" if seen.stopped else "The best so far is"
    return f"{why} {key}: {measured.metric} {shown} on {measured.n} validation rows."


def part_told(seen: Evidence) -> str | None:
    """Needs: the winner learned from a part of what there is, for want of time."""
    rows, of = part(seen.winner.record)
    cut = is_cut(seen.winner.record) and rows < of
    return f"It learned from {rows:,} of {of:,} rows, as many as time allowed." if cut else None


def one_answer_told(seen: Evidence) -> str | None:
    """Needs: the winner gives one answer to every validation row."""
    only = seen.winner.only
    if only is None:
        return None
    return f"It answers '{_short(only)}' to every row: it has learned nothing that could be used."


def worst_told(seen: Evidence) -> str | None:
    """Needs: the winner's figure is the worst that the metric can be."""
    found = metrics.get(seen.task.metric)
    low, high = found.bounds
    if seen.winner.measured.value != (high if found.lower else low):
        return None
    return f"That is the worst that {found.name} can be: none of what was tried is of use yet."


def length_told(seen: Evidence) -> str | None:
    """Needs: answers were judged, and the winner's win less where they are as long as the others."""
    shown = seen.own or seen.winner.measured
    equal, longer = shown.more.get(EQUAL_LENGTH), shown.more.get(LONGER)
    if equal is None or longer is None or not metrics.by_wins(seen.task):
        return None
    if shown.value - equal < LENGTH_GAIN:
        return None
    return (
        f"Length explains part of that: its answers are longer in {longer:.0%} of the rows, and at "
        f"equal length it would be {equal:.3f}."
    )


def repeats_told(seen: Evidence) -> str | None:
    """Needs: answers were judged, and the winner's repeat themselves more than those they beat."""
    shown = seen.own or seen.winner.measured
    own, other = shown.more.get(REPEATS), shown.more.get(OTHER_REPEATS)
    if own is None or other is None or own - other < REPEATS_MORE:
        return None
    return (
        f"Its answers repeat themselves: {own:.0%} of their three-word sequences stand in them before, "
        f"{other:.0%} in the others. Read some before you trust the judge."
    )


def second_judge_told(seen: Evidence) -> str | None:
    """Needs: a second judge saw the winner's answers, and its win rate lies below the interval."""
    shown = seen.own or seen.winner.measured
    second = shown.more.get(SECOND)
    if second is None or second >= shown.low:
        return None
    return (
        f"The second judge does not see it: by that one it wins {second:.3f}, below the interval. What "
        "the first judge alone likes may be no better answer."
    )


def bar_told(seen: Evidence) -> str | None:
    """Needs: a bar."""
    bar, own = seen.bar, seen.own
    if bar is None:
        return None
    lines = []
    if seen.doubted:
        count, of = seen.winner.measured.n, seen.winner.of
        lines.append(f"It clears {bar} on {count} of {of:,} validation rows, too few to be sure.")
    elif not seen.chosen.cleared and any(
        bar.cleared(s.measured.value) and s.only is None for s in seen.chosen.standings
    ):  # `few_rows_told` names it
        lines.append(f"No rung is sure to clear {bar} on validation.")
    elif not seen.chosen.cleared:
        tried = "that was tried " if seen.untried else ""
        lines.append(f"No rung {tried}clears {bar} on validation; {_closest(seen, bar)}.")
    if own is not None:
        lines.append(_of_bar(bar, own))
    return " ".join(lines) or None


def _closest(seen: Evidence, bar: Bar) -> str:
    best = seen.closest
    if best.key == seen.winner.key:
        return "this one comes closest"
    dearer = ", at a higher cost" if best.total > seen.winner.total else ""
    return f"{best.key} comes closest ({_figure(best.measured.value, bar)}){dearer}"


def _of_bar(bar: Bar, test: Measured) -> str:
    worst, best = (test.high, test.low) if bar.lower else (test.low, test.high)
    if bar.cleared(worst):
        return f"It clears {bar}: all of the 95% interval does."
    if bar.cleared(test.value):
        return (
            f"It clears {bar} as measured, but the bar lies within the 95% interval: so many rows "
            "cannot rule out that it is missed."
        )
    if bar.cleared(best):
        return f"It misses {bar} on the test rows, though within the 95% interval: do not count on it."
    return f"It does not clear {bar}: all of the 95% interval lies on the wrong side."


def against_told(seen: Evidence) -> str | None:
    """Needs: others were asked the same test rows."""
    own = seen.own
    if own is None:
        return None
    lines = []
    for key, other in seen.test.items():
        if key != seen.winner.key:
            count = min(own.n, other.n)
            found = compare(other.first(count), own.first(count))
            shown = f" ({other.first(count).value:.3f})" if not found.certain else ""
            lines.append(f"Beside {key}{shown}: {found.says}.")
    return " ".join(lines) or None


def outdone_told(seen: Evidence) -> str | None:
    """Needs: the base as it is does better on the test rows, by chance or not."""
    own, base = seen.own, seen.test.get(seen.base)
    if own is None or base is None or seen.winner.key == seen.base or base.n < own.n:
        return None
    if not base.first(own.n).better(own):
        return None
    return (
        "On the test rows the base as it is does better: do not count on "
        f"{seen.winner.key} before more rows have shown that it gains anything."
    )


def baseline_told(seen: Evidence) -> str | None:
    """Needs: a baseline with a figure, and other rungs that were tried."""
    floor = next((s for s in seen.chosen.standings if s.key == seen.baseline), None)
    others = [s for s in seen.chosen.standings if s.key != seen.baseline]
    if floor is None or not others:
        return None
    if seen.winner.key == seen.baseline:
        better = [s.key for s in others if beats(s, floor)]
        if better:  # the bar is cleared by the baseline, and something dearer is better still
            return f"{', '.join(better)} did better, at a higher cost."
        return f"None of the rungs that were tried ({', '.join(s.key for s in others)}) beats it."
    if beats(seen.winner, floor):
        return None
    return f"It cannot be told from {floor.key}, which needs no foundation model."


def few_rows_told(seen: Evidence) -> str | None:
    """Needs: a better figure than the winner's, of fewer validation rows; no bar that is cleared."""
    own = seen.winner.measured
    higher = [
        s for s in seen.chosen.standings
        if s.measured.better(own) and s.measured.n < own.n and s.only is None
    ]  # fmt: skip
    if seen.chosen.cleared or not higher:
        return None
    told = ", ".join(f"{s.key} ({s.measured.value:.3f} on {s.measured.n} rows)" for s in higher)
    return f"Not taken before it, on too few validation rows to be sure: {told}."


VERDICT: tuple[Sentence, ...] = (
    figure_told, worst_told, length_told, repeats_told, second_judge_told, part_told, one_answer_told,
    bar_told, against_told, outdone_told, baseline_told, few_rows_told,
)  # fmt: skip


def resolution(task: Task, bar: Bar | None, n: int, values: str = "test") -> str | None:
    """What rows to judge by are too few to show, said before the climb; None where they are enough."""
    if task.metric not in ("accuracy", "exact_match") or n < 1:
        return None
    near = bar.value if bar else 0.8
    least = detectable(n, near)
    if least < 0.02:
        return None
    other = max(0.0, near - least)
    return (
        f"the {values} part has {n} rows: it cannot tell {task.metric} {near:.2f} from anything above "
        f"{other:.2f} with certainty; more rows, or a larger --{values}, would"
    )


def _interval(measured: Measured, bar: Bar | None) -> str:
    value, low, high = (_figure(v, bar) for v in (measured.value, measured.low, measured.high))
    return f"{value} [{low}, {high}]"


def _figure(value: float, bar: Bar | None) -> str:
    """A figure to three digits, to more where those would be on the bar's other side."""
    told = [f"{value:.{digits}f}" for digits in (3, 4, 5, 6)]
    if bar is None:
        return told[0]
    return next((t for t in told if bar.cleared(float(t)) == bar.cleared(value)), str(value))


def part(record: RungRecord) -> tuple[int, int]:
    rows, of = record.metrics.get("rows"), record.metrics.get("rows_of")
    return (rows, of) if rows and of else (0, 0)


def is_cut(record: RungRecord) -> bool:
    """Whether a rung's figure is of a part of its rows or steps."""
    return record.metrics.get("share", 1.0) < 1.0


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."
