"""Every sentence of a verdict beside the evidence that it needs, and silence without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rung.evals.intervals import wilson
from rung.evals.measure import Measured
from rung.ladder import advice as advise
from rung.ladder import choice, verdict
from rung.ladder.advice import advice
from rung.ladder.arms import Outlook
from rung.ladder.attempts import Attempt
from rung.ladder.bar import Bar
from rung.ladder.choice import Choice, Standing, choose
from rung.ladder.levels import Level
from rung.ladder.verdict import Evidence, says
from rung.store.climbs import RungRecord
from rung.types import Task

YES_NO = Task("classification", "accuracy", ("no", "yes"))


def measured(right: int, n: int = 100, shift: int = 0) -> Measured:
    """So many of n items right, from item `shift` on."""
    items = np.zeros(n)
    items[(np.arange(right) + shift) % n] = 1.0
    statistics = np.stack([items, np.ones(n)], axis=1)
    value = right / n
    return Measured(
        "accuracy", value, max(0.0, value - 0.08), min(1.0, value + 0.08), n, items, statistics
    )


def standing(
    key: str, right: int, total: float = 1.0, attempts: tuple[Attempt, ...] = (), **metrics
) -> Standing:
    found = measured(right)
    record = RungRecord(
        "c", key, key, status="succeeded", cost={"total_seconds": total, "wall": total},
        metrics={"validation": found.as_dict(), **metrics}, items={"validation": found.items_dict()},
        trials={"done": [a.as_dict() for a in attempts]}, predicted={"wall": 1.0},
    )  # fmt: skip
    return Standing(record, found)


def waiting(key: str, status: str = "cancelled") -> RungRecord:
    return RungRecord("c", key, key, status=status, predicted={"wall": 9.0}, reason="no time")


def evidence(*standings: Standing, bar: str | None = None, **more) -> Evidence:
    parsed = Bar.parse(bar) if bar else None
    records = [s.record for s in standings] + list(more.pop("others", []))
    kept = {
        "task": YES_NO, "test": {}, "baseline": "tfidf", "base": "base", "budget": "10m",
        "seconds": 600.0, "used": 500.0, "test_of": 100, **more,
    }  # fmt: skip
    return Evidence(
        bar=parsed, chosen=choose(standings, parsed, "tfidf", 0.01), records=records, **kept
    )


# --- who wins ---------------------------------------------------------------------------------------


def test_with_a_bar_the_cheapest_that_clears_it_wins():
    found = [standing("a", 90, 9), standing("b", 86, 2), standing("c", 84, 1)]
    chosen = choose(found, Bar("accuracy", 0.85))
    assert chosen.winner.key == "b" and chosen.second.key == "a" and chosen.cleared


def test_who_gives_one_answer_to_all_does_not_win_and_clears_no_bar():
    same = standing("lora", 90, 1, only="yes")
    chosen = choose([same, standing("tfidf", 70, 5)], Bar("accuracy", 0.85), "tfidf")
    assert chosen.winner.key == "tfidf" and not chosen.cleared
    assert choose([same], None).winner.key == "lora"  # nothing else was measured, and it is said


def test_who_is_within_a_hundredth_and_cheaper_wins_and_who_is_further_does_not():
    assert choose([standing("a", 90, 9), standing("b", 89, 2)], None, tie=0.01).winner.key == "b"
    assert choose([standing("a", 90, 9), standing("b", 88, 2)], None, tie=0.01).winner.key == "a"


@pytest.mark.parametrize("seed", range(30))
def test_a_winner_is_never_beaten_beyond_chance_by_another_that_was_tried(seed):
    draw = np.random.default_rng(seed)
    found = [
        replace(standing(f"r{i}", right, draw.random()), measured=measured(right, shift=shift))
        for i, (right, shift) in enumerate(draw.integers((40, 0), 100, (6, 2)).tolist())
    ]
    chosen = choose(found, None, tie=0.01)
    beaten = [s for s in found if choice.beats(s, chosen.winner)]
    assert not beaten or all(any(choice.beats(o, s) for o in found) for s in found)


def test_rungs_measured_on_fewer_rows_are_compared_on_those():
    few = replace(standing("few", 20), measured=measured(20, 24))
    many = standing("many", 90)
    assert not choice.beats(many, few)  # both get the first 20 right
    assert choose([few, many], None, tie=0.01).winner is not None


def on(key: str, right: int, n: int, total: float = 1.0, **metrics) -> Standing:
    """A rung with that many of n validation rows right, and the interval of so few."""
    plain = measured(right, n)
    low, high = wilson(right, n)
    return replace(standing(key, 1, total, **metrics), measured=replace(plain, low=low, high=high))


def test_a_figure_of_few_rows_is_taken_by_what_it_is_at_least():
    """The rows are those that both got right, so that neither beats the other beyond chance."""
    few, many = on("few", 23, 24, 100.0), on("many", 270, 300)
    assert few.measured.value > many.measured.value and not choice.beats(few, many)
    assert choose([few, many], None, tie=0.01).winner is many
    surer = on("few", 72, 72, 100.0)  # all of three times as many
    assert choose([surer, many], None, tie=0.01).winner is surer
    # On the same number of rows the figure itself decides, and where less is better its upper end.
    assert choose([on("a", 23, 24), on("b", 22, 24)], None, tie=0.01).winner.key == "a"


def test_a_bar_is_cleared_by_all_validation_rows_or_by_the_worse_end_of_an_interval():
    bar = Bar("accuracy", 0.85)
    few, whole = on("few", 22, 24, 1.0, held_of=300), on("whole", 258, 300, 5.0, held_of=300)
    chosen = choose([few, whole], bar)
    assert chosen.winner is whole and chosen.cleared  # 22 of 24 may be 0.74
    surer = on("few", 78, 80, 1.0, held_of=300)  # 0.91 at least
    assert choose([surer, whole], bar).winner is surer
    assert choose([on("few", 22, 24, held_of=24), whole], bar).winner.key == "few"
    alike = replace(few, measured=replace(few.measured, value=1.0, low=1.0, high=1.0))
    assert not alike.clears(bar)  # a bootstrap of 24 rows that are all right
    lower, seen = Bar("perplexity", 12.0, lower=True), replace(few.measured, metric="perplexity")
    upper = replace(few, measured=replace(seen, value=10.0, low=8.0, high=13.0))
    assert not upper.clears(lower)
    assert replace(upper, measured=replace(upper.measured, high=11.0)).clears(lower)


def test_a_bar_cleared_on_too_few_rows_is_told_as_that():
    few, below = on("few", 22, 24, 1.0, held_of=300), on("whole", 200, 300, 5.0, held_of=300)
    seen = evidence(few, below, bar="accuracy=0.85")
    assert seen.chosen.winner is few and not seen.chosen.cleared
    told = "It clears accuracy >= 0.85 on 24 of 300 validation rows, too few to be sure."
    assert told in says(seen) and "No rung" not in says(seen)
    assert "too few" not in says(evidence(below, bar="accuracy=0.6"))
    # Of a rung that did not win it is told as one that was not taken.
    close = on("whole", 250, 300, 5.0, held_of=300)
    other = evidence(few, close, bar="accuracy=0.85")
    assert other.chosen.winner is close
    assert "No rung is sure to clear accuracy >= 0.85 on validation." in says(other)
    assert "comes closest" not in says(other) and "Not taken before it" in says(other)
    missed = says(evidence(below, bar="accuracy=0.85"))
    assert "too few" not in missed and "No rung clears accuracy >= 0.85" in missed


def test_a_better_figure_of_few_rows_is_told_beside_the_winner():
    few, many = on("few", 23, 24), on("many", 270, 300)
    told = says(evidence(few, many))
    assert "Not taken before it, on too few validation rows to be sure: few (0.958 on 24 rows)." in told
    assert "Not taken" not in says(evidence(few, many, bar="accuracy=0.85"))
    assert "Not taken" not in says(evidence(on("few", 20, 24), many))


# --- sentences --------------------------------------------------------------------------------------


def test_without_more_evidence_only_the_figure_is_told():
    seen = evidence(standing("lora", 80))
    assert [s for one in verdict.VERDICT if (s := one(seen))] == [
        "The best so far is lora: accuracy 0.800 [0.720, 0.880] on 100 validation rows."
    ]
    assert advice(seen) == []


def test_what_was_not_tried_is_never_called_no_better():
    seen = evidence(standing("scratch", 50), others=[waiting("lora"), waiting("full")],
                    outlook=[Outlook("scratch", 0.5, 9, 9, True, True),
                             Outlook("lora", None, 60, 60, False, True),
                             Outlook("full", None, 900, 900, False, True)])  # fmt: skip
    said = " ".join([says(seen), *advice(seen)])
    assert "nothing is known of them: lora, full" in said
    assert "The cheapest that was not tried is lora; --budget 13m has room for it." in said
    for claim in ("no better", "larger base", "unlikely", "None of the rungs"):
        assert claim not in said


def test_cheap_is_what_is_cheap_with_the_requests_that_it_is_meant_for():
    made_fast = Outlook("few_shot", None, 5, 4000, False, True)  # every request carries the examples
    seen = evidence(
        others=[waiting("few_shot"), waiting("lora")],
        outlook=[made_fast, Outlook("lora", None, 60, 900, False, True)],
    )
    assert advice(seen)[0].startswith("The cheapest that was not tried is lora;")


def test_a_budget_that_allowed_nothing_claims_nothing():
    seen = evidence(others=[waiting("lora")], outlook=[Outlook("lora", None, 60, 60, False, True)])
    assert says(seen) == "No rung was tried within --budget 10m: nothing can be said of them."
    assert advice(seen) == ["The cheapest that was not tried is lora; --budget 13m has room for it."]
    failed = evidence(others=[waiting("lora", "failed")])
    assert says(failed) == "No rung gave a figure: lora failed, as the table says."
    assert says(evidence()) == "No rung could be tried: the table says why."


def test_one_answer_to_every_row_is_called_that():
    assert "It answers 'yes' to every row" in says(evidence(standing("lora", 50, only="yes")))
    assert "every row" not in says(evidence(standing("lora", 50)))


def test_a_winner_that_gets_nothing_right_is_told():
    assert "That is the worst that accuracy can be" in says(evidence(standing("tfidf", 0)))
    assert "worst" not in says(evidence(standing("tfidf", 1)))


def test_a_part_of_the_rows_is_told():
    cut = standing("probe", 80, share=0.25, rows=500, rows_of=2000)
    assert "It learned from 500 of 2,000 rows, as many as time allowed." in says(evidence(cut))
    whole = standing("probe", 80, share=1.0, rows=2000, rows_of=2000)
    assert "learned from" not in says(evidence(whole))


@pytest.mark.parametrize(
    ("validation", "test", "expected"),
    [
        (95, 99, "all of the 95% interval does"),
        (95, 88, "but the bar lies within the 95% interval"),
        (95, 84, "It misses accuracy >= 0.86 on the test rows, though within"),
        (60, 60, "No rung clears accuracy >= 0.86 on validation; this one comes closest. It does not"),
    ],
)  # fmt: skip
def test_the_bar_is_spoken_of_by_the_test_rows(validation, test, expected):
    seen = evidence(standing("lora", validation), bar="accuracy=0.86", test={"lora": measured(test)})
    assert expected in says(seen)
    assert ("No rung" in says(seen)) == (validation < 86)


def test_of_rungs_that_were_not_tried_no_bar_is_denied():
    seen = evidence(standing("lora", 60), bar="accuracy=0.86", others=[waiting("full")])
    assert "No rung that was tried clears accuracy >= 0.86" in says(seen)


def test_fewer_test_rows_than_there_are_is_told():
    seen = evidence(standing("lora", 80), test={"lora": measured(80)}, test_of=900)
    assert "on 100 of 900 test rows, as many as time allowed" in says(seen)


def test_a_stopped_climb_says_so():
    assert says(evidence(standing("lora", 80), stopped=True)).startswith(
        "The climb was stopped; the best so far is lora"
    )


def test_the_baseline_is_spoken_of_where_it_stands_beside_others():
    floor, worse, better = standing("tfidf", 80), standing("lora", 55, 5), standing("probe", 98, 5)
    assert "None of the rungs that were tried (lora) beats it." in says(evidence(floor, worse))
    assert "beats it" not in says(evidence(floor))
    near = standing("probe", 83, 5)
    assert "It cannot be told from tfidf, which needs no" in says(evidence(floor, near))
    told = says(evidence(floor, better))
    assert "cannot be told" not in told and "beats it" not in told
    cleared = says(evidence(floor, better, bar="accuracy=0.75"))
    assert "probe did better, at a higher cost." in cleared


def attempt(rows: int, right: int, share: float) -> Attempt:
    return Attempt(params={}, level=Level(share, 100), rows=rows, measured=measured(right), run=None)


@pytest.mark.parametrize(
    ("less", "more", "expected"),
    [
        (60, 95, "More data is likely to help: the last step gave +0.350."),
        (80, 82, "More data may help a little"),
        (80, 80, "unlikely to help: the last step gave nothing"),
    ],
)
def test_the_curve_speaks_of_rows_that_were_learned_from(less, more, expected):
    attempts = (attempt(500, less, 0.25), attempt(2000, more, 1.0))
    told = " ".join(advice(evidence(standing("probe", more, attempts=attempts))))
    assert expected in told and f"{less / 100:.3f} with 500 rows" in told


def test_of_a_method_that_learns_nothing_from_rows_no_curve_is_told():
    alone = (attempt(2000, 80, 1.0),)
    assert not any("data" in s for s in advice(evidence(standing("zero_shot", 80, attempts=alone))))
    again = (attempt(2000, 78, 1.0), attempt(2000, 80, 1.0))
    assert not any("data" in s for s in advice(evidence(standing("zero_shot", 80, attempts=again))))


def test_a_faultless_winner_needs_harder_rows():
    def told(right: int, **more) -> str:
        return " ".join(advice(evidence(standing("probe", right), **more)))

    harder = "It misses none of 100 validation rows: harder or more validation rows would tell more."
    assert harder in told(100) and harder in told(100, test={"probe": measured(100)})
    assert "misses none" not in told(99)
    # Right on all that it was chosen by, and wrong on others: that is no praise.
    chosen_badly = told(100, test={"probe": measured(30)})
    assert "It misses none of 100 validation rows, and some test rows: so few choose" in chosen_badly


def test_who_comes_closest_to_the_bar_is_named_also_where_a_cheaper_one_wins():
    near, best = standing("probe", 84, 1.0), standing("lora", 85, 9.0)
    told = says(evidence(near, best, bar="accuracy=0.9"))
    assert "accuracy >= 0.9 on validation; lora comes closest (0.850), at a higher cost." in told
    alone = says(evidence(best, bar="accuracy=0.9"))
    assert "No rung clears accuracy >= 0.9 on validation; this one comes closest." in alone


def test_a_figure_is_not_rounded_over_the_bar_that_it_misses():
    found = standing("probe", 84)
    under = replace(found, measured=replace(found.measured, value=0.84973))
    told = says(evidence(under, bar="accuracy=0.85"))
    assert "probe: accuracy 0.8497 [" in told and "No rung clears accuracy >= 0.85" in told
    assert "probe: accuracy 0.850 [" in says(evidence(under, bar="accuracy=0.9"))


def test_a_rung_whose_time_was_over_is_not_called_untried():
    late = replace(attempt(500, 60, 0.25), measured=None, late=True)
    begun = replace(waiting("lora"), trials={"done": [late.as_dict()]})
    seen = evidence(standing("probe", 95), bar="accuracy=0.9", others=[begun, waiting("full")])
    told = " ".join(advice(seen))
    assert "Begun, and out of time before they were measured: lora." in told
    assert "Not tried, since probe clears the bar on validation: full; --all" in told


def test_a_base_that_does_better_on_the_test_rows_is_told():
    """However few they are: a winner chosen by seven rows is no ground to use it."""
    test = {"zero_shot": measured(2, 6), "base": measured(4, 6)}
    told = says(evidence(standing("zero_shot", 100), test=test, test_of=6))
    assert "Beside base (0.667): no difference can be shown with 6 items" in told
    assert "the base as it is does better: do not count on zero_shot" in told
    for base in (measured(2, 6), measured(1, 6)):
        worse = {"zero_shot": measured(2, 6), "base": base}
        assert "does better" not in says(evidence(standing("zero_shot", 100), test=worse, test_of=6))


def test_what_was_tried_on_a_part_is_not_held_against_it():
    cut = standing("lora", 60, share=0.25, rows=500, rows_of=2000)
    told = advice(evidence(standing("probe", 80), cut))
    assert "Tried on a part of the data only, and not held against it: lora." in told


def test_the_rung_most_likely_to_clear_the_bar_is_named_with_its_budget():
    outlook = [Outlook("probe", 0.80, 9, 9, True, True), Outlook("lora", 0.90, 400, 400, False, True),
               Outlook("full", 0.82, 900, 900, False, True),
               Outlook("ia3", None, 5, 5, False, True)]  # fmt: skip
    seen = evidence(standing("probe", 80), bar="accuracy=0.88", outlook=outlook)
    told = advice(seen)
    most = "Most likely to clear accuracy >= 0.88: lora on all its rows; "
    assert f"{most}--budget 20m has room for it." in told
    beyond = evidence(standing("probe", 80), bar="accuracy=0.95", outlook=outlook)
    assert any(s.startswith("Most likely to do better: lora") for s in advice(beyond))


def test_a_larger_base_is_advised_only_when_every_rung_was_tried_whole():
    every = [Outlook("probe", 0.8, 9, 9, True, True), Outlook("lora", 0.7, 9, 9, True, True)]
    pair = (standing("probe", 80), standing("lora", 70))
    assert any("larger base" in s for s in advice(evidence(*pair, outlook=every)))
    cut = [every[0], Outlook("lora", 0.7, 9, 9, False, True)]
    for other in (
        evidence(*pair, outlook=cut), evidence(*pair, outlook=every, others=[waiting("full")]),
        evidence(*pair, outlook=every, stopped=True),
        evidence(*pair, bar="accuracy=0.75", outlook=every),
    ):  # fmt: skip
        assert not any("larger base" in s for s in advice(other))


def test_length_is_told_where_it_explains_a_win():
    wins = Task("preference", "win_rate")

    def told(equal: float, task: Task = wins, longer: float = 0.8) -> str:
        more = {"win_rate_equal_length": equal, "longer": longer}
        own = replace(measured(70), metric="win_rate", more=more)
        return says(evidence(standing("lora", 70), task=task, test={"lora": own}))

    assert "longer in 80% of the rows, and at equal length it would be 0.550" in told(0.55)
    assert "Length explains" not in told(0.69)  # too little to be told
    assert "Length explains" not in told(0.75)  # it would be more
    assert "Length explains" not in told(0.5, YES_NO)


def test_a_winner_that_repeats_itself_or_pleases_one_judge_alone_is_told():
    task = Task("preference", "win_rate")

    def told(**more: float) -> str:
        seen = evidence(standing("lora", 75), task=task)
        won = replace(seen.winner.measured, metric="win_rate", more=more)
        winner = replace(seen.winner, measured=won)
        return says(replace(seen, chosen=replace(seen.chosen, winner=winner)))

    assert "40% of their three-word sequences" in told(repeats=0.4, other_repeats=0.05)
    assert "repeat themselves" not in told(repeats=0.4, other_repeats=0.35)
    assert "by that one it wins 0.500" in told(win_rate_second_judge=0.5)
    assert "second judge" not in told(win_rate_second_judge=0.74)
    assert "second judge" not in told()


def test_every_sentence_is_walked_here():
    """A sentence that is added must be given its evidence in this file."""
    told = {f.__name__ for f in (*verdict.VERDICT, *advise.ADVICE, verdict.nothing_tried)}
    assert told == {
        "figure_told", "worst_told", "length_told", "repeats_told", "second_judge_told", "part_told",
        "one_answer_told", "bar_told", "against_told", "outdone_told", "baseline_told", "few_rows_told",
        "data_curve", "perfect_told", "untried_told", "cut_told", "next_rung", "exhausted",
        "nothing_tried",
    }  # fmt: skip


def test_others_on_the_test_rows_are_compared_on_those_that_both_were_asked():
    test = {"lora": measured(95), "base": measured(20, 40)}
    told = says(evidence(standing("lora", 90), test=test))
    assert "Beside base: better by" in told and "40 items" in told
    assert "Beside" not in says(evidence(standing("lora", 90), test={"lora": measured(95)}))


def test_nothing_is_chosen_from_nothing():
    assert choose([], None) == Choice()
