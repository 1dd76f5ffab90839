"""What a climb advises: sentences about what is likely to help, each with the evidence it needs."""

from __future__ import annotations

import math
from typing import Any

from rung.data.problem import counted
from rung.evals.compare import compare
from rung.ladder.attempts import Attempt, attempts_of
from rung.ladder.choice import Standing
from rung.ladder.verdict import Evidence, Sentence, is_cut


def advice(seen: Evidence) -> list[str]:
    """What is likely to help, in a sentence each."""
    if seen.chosen.winner is None:
        return [s for one in (next_rung,) if (s := one(seen))]
    return [s for one in ADVICE if (s := one(seen))]


def curve(standing: Standing) -> list[dict[str, Any]]:
    """The rung's figures by how much it learned from, for those settings that won."""
    return [
        {"rows": a.rows, "share": a.level.share, **a.measured.figure}
        for a in _ladder(standing)
        if a.measured is not None
    ]


def _ladder(standing: Standing) -> list[Attempt]:
    """The attempts with the winning settings, one for each number of rows, the fewest first."""
    attempts = [a for a in attempts_of(standing.record) if a.measured is not None and not a.late]
    own = next((a for a in reversed(attempts) if a.run == standing.record.run), None)
    by_share: dict[float, Attempt] = {}
    for one in attempts:
        if own is None or one.params == own.params:
            by_share[one.level.share] = one
    return [by_share[share] for share in sorted(by_share)]


def data_curve(seen: Evidence) -> str | None:
    """Needs: the winner with two numbers of rows, of a method that learns from rows."""
    points = [a for a in _ladder(seen.winner) if a.measured is not None]
    if len(points) < 2 or points[-1].rows <= points[0].rows:
        return None
    less, more = points[-2], points[-1]
    assert less.measured is not None and more.measured is not None
    count = min(less.measured.n, more.measured.n)
    compared = compare(less.measured.first(count), more.measured.first(count))
    gain = -compared.difference if more.measured.lower else compared.difference
    shown = ", ".join(f"{p.measured.value:.3f} with {p.rows:,} rows" for p in points if p.measured)
    head = f"{seen.task.metric} {shown}."
    if compared.certain and gain > 0:
        return f"{head} More data is likely to help: the last step gave {gain:+.3f}."
    if gain > 0:
        return (
            f"{head} More data may help a little: the last step gave {gain:+.3f}, which so many "
            "validation rows cannot tell from chance."
        )
    return f"{head} More data of this kind is unlikely to help: the last step gave nothing."


def perfect_told(seen: Evidence) -> str | None:
    """Needs: the winner misses no validation row."""
    best = (
        -seen.best_possible if seen.winner.measured.lower and seen.best_possible else seen.best_possible
    )
    if best is None or seen.winner.measured.value != best:
        return None
    rows = counted(seen.winner.measured.n, "validation row")
    if seen.own is not None and seen.own.value != best:
        return f"It misses none of {rows}, and some test rows: so few choose badly. Give more rows."
    return f"It misses none of {rows}: harder or more validation rows would tell more."


def untried_told(seen: Evidence) -> str | None:
    """Needs: rungs that fit and have no figure."""
    begun = seen.begun
    names = [key for key in seen.untried if key not in begun]
    lines = []
    if begun:
        lines.append(f"Begun, and out of time before they were measured: {', '.join(begun)}.")
    if names and seen.chosen.cleared:
        lines.append(
            f"Not tried, since {seen.winner.key} clears the bar on validation: {', '.join(names)}; "
            "--all would try them."
        )
    elif names:
        lines.append(f"Not tried, so that nothing is known of them: {', '.join(names)}.")
    return " ".join(lines) or None


def cut_told(seen: Evidence) -> str | None:
    """Needs: rungs that were measured on a part of what there is, other than the winner."""
    cut = [s.key for s in seen.chosen.standings if s.key != seen.winner.key and is_cut(s.record)]
    if not cut or seen.chosen.cleared:
        return None
    return f"Tried on a part of the data only, and not held against it: {', '.join(cut)}."


def next_rung(seen: Evidence) -> str | None:
    """Needs: rungs that were not tried whole, and a bar that is missed or a figure they may beat.

    Names the one most likely to get there and the budget that it needs.
    """
    if seen.chosen.cleared:
        return None
    best = seen.chosen.winner.measured if seen.chosen.winner else None
    lower = best.lower if best else bool(seen.bar and seen.bar.lower)
    open_ = [o for o in seen.outlook if not o.whole]
    known = [o for o in open_ if o.potential is not None and best is not None
             and (o.potential < best.value if lower else o.potential > best.value)]  # fmt: skip
    unknown = [o for o in open_ if o.potential is None]
    if known:
        pick = min(known, key=lambda o: o.potential if lower else -o.potential)  # type: ignore
        clears = (
            seen.bar is not None and pick.potential is not None and seen.bar.cleared(pick.potential)
        )
        goal = f"clear {seen.bar}" if clears else "do better"
        what = f"Most likely to {goal}: {pick.key} on all its rows"
    elif unknown:
        pick = min(unknown, key=lambda o: (o.total, o.seconds))
        what = f"The cheapest that was not tried is {pick.key}"
    else:
        return None
    return f"{what}; --budget {_budget(seen, pick.seconds)} has room for it."


def _budget(seen: Evidence, seconds: float) -> str:
    """A budget under which a rung of so many seconds would have been tried whole."""
    needed = (min(seen.used, seen.seconds) + seconds) / 0.75
    return f"{math.ceil(needed / 60)}m"


def exhausted(seen: Evidence) -> str | None:
    """Needs: every rung that fits was tried whole, none is better, and no bar is cleared."""
    if (
        seen.chosen.cleared
        or seen.untried
        or any(not o.whole for o in seen.outlook)
        or not seen.outlook
    ):
        return None
    if len(seen.tried) < 2 or seen.stopped or perfect_told(seen):
        return None
    return "Every rung that fits was tried on all its rows: more data or a larger base is what is left."


ADVICE: tuple[Sentence, ...] = (
    data_curve, perfect_told, untried_told, cut_told, next_rung, exhausted,
)  # fmt: skip
