"""What is tried next, by simulated costs and figures: first the cheap, then what may still win."""

from __future__ import annotations

import math
import random

import pytest

from rung.ladder.arm import Arm, Outcome
from rung.ladder.levels import Level, levels, shares
from rung.ladder.scheme import OTHER_SETTINGS, Standing, Step, next_step

WHOLE = (Level(1 / 16, 100), Level(1 / 4, 100), Level(1.0, 100))


def arm(key: str, full: float, total: float = 0.0, grid=WHOLE, **more) -> Arm:
    return Arm(key, more.pop("params", ()), grid, lambda v: full * v.share, total, **more)


def simulate(arms, truth, budget, **standing):
    """Run the scheme on invented curves: (what was tried, seconds spent)."""
    tried, spent = [], 0.0
    while (step := next_step(arms, Standing(budget - spent, **standing))) is not None:
        spent += step.seconds
        found = next(a for a in arms if a.key == step.key and a.params == step.params)
        value = truth(step.key, step.params, step.level.share)
        found.outcomes.append(Outcome(step.level, value, value + 0.02))
        tried.append((step.key, step.params, step.level.share))
    return tried, spent


def curve(final: float, start: float = 0.5):
    return lambda share: final - (final - start) * 0.3 * math.log(1 / share, 4)


def test_the_baseline_goes_first_and_then_the_cheapest():
    arms = [arm("slow", 50), arm("base", 60, baseline=True), arm("quick", 2)]
    tried, _ = simulate(arms, lambda *_: 0.6, 1000)
    assert [k for k, _, _ in tried][:3] == ["base", "quick", "slow"]


def test_first_figures_go_by_what_a_rung_costs_in_all_and_not_by_its_samples():
    # Both have a sample within the time: that of the slow rung is the shorter one.
    slow = arm("slow", 1000, total=90_000, grid=(Level(1 / 1000, 24), Level(1.0, 100)))
    quick = arm("quick", 20, total=100)
    base = arm("base", 30, total=95_000, grid=(Level(1 / 10, 24), Level(1.0, 100)), reference=True)
    tried, _ = simulate([slow, quick, base], lambda *_: 0.6, 30)
    assert [k for k, _, _ in tried][:3] == ["base", "quick", "slow"]
    # A first figure that takes longer than a good rung's next one waits for it.
    quick.outcomes = [Outcome(WHOLE[1], 0.8, 0.9)]
    late = arm("late", 60, total=1, grid=(Level(1.0, 100),))
    step = next_step([quick, late], Standing(1000))
    assert step is not None and step.key == "quick"


def test_a_bar_cleared_on_few_rows_is_made_sure_of_before_anything_else():
    grid = (Level(1 / 16, 24), Level(1 / 4, 80), Level(1.0, 300))
    good, other = arm("good", 200, total=5, grid=grid), arm("other", 1, total=1)
    good.outcomes = [Outcome(grid[0], 1.0, 1.0)]
    step = next_step([good, other], Standing(1000))
    assert step is not None and step.key == "other"
    step = next_step([good, other], Standing(1000, doubted=frozenset({"good"})))
    assert step is not None and (step.key, step.level) == ("good", grid[1])
    # So it is where another one leads, of which nothing better can be hoped for.
    leads = arm("leads", 900, total=7, grid=grid)
    leads.outcomes = [Outcome(grid[0], 1.0, 1.0)]
    step = next_step([leads, good], Standing(1000, doubted=frozenset({"good", "leads"})))
    assert step is not None and (step.key, step.level) == ("good", grid[1])
    # Where that does not fit the time, the others go on.
    step = next_step([good, other], Standing(10, doubted=frozenset({"good"})))
    assert step is not None and step.key == "other"


def test_with_ample_time_every_rung_is_whole_at_once():
    arms = [arm(f"r{i}", 10 + i) for i in range(6)]
    tried, _ = simulate(arms, lambda k, _, s: curve(0.8)(s), 10_000)
    assert all(share == 1.0 for _, _, share in tried) and len(tried) == 6


def test_with_little_time_all_get_a_sample_and_the_best_gets_the_rest():
    finals = {"a": 0.9, "b": 0.7, "c": 0.6, "d": 0.55}
    arms = [arm(k, 100) for k in finals]
    tried, spent = simulate(arms, lambda k, _, s: curve(finals[k])(s), 200)
    assert {k for k, _, _ in tried} == set(finals)
    assert ("a", (), 1.0) in tried and spent <= 200
    assert not [t for t in tried if t[0] == "d" and t[2] == 1.0]


def test_what_can_no_longer_win_gets_no_more_rows():
    grid = (Level(0.25, 100), Level(1.0, 100))
    best, worse = arm("best", 10, grid=grid), arm("worse", 10, grid=grid)
    best.outcomes = [Outcome(grid[1], 0.95, 0.97)]
    worse.outcomes = [Outcome(grid[0], 0.5, 0.52)]
    assert next_step([best, worse], Standing(1000)) is None
    assert next_step([best, worse], Standing(1000, everything=True)).key == "worse"


def test_a_flat_curve_is_not_followed_and_a_rising_one_is():
    best, flat, rising = arm("best", 10), arm("flat", 10), arm("rising", 10)
    best.outcomes = [Outcome(WHOLE[2], 0.70, 0.72)]
    flat.outcomes = [Outcome(WHOLE[0], 0.60, 0.61), Outcome(WHOLE[1], 0.60, 0.61)]
    rising.outcomes = [Outcome(WHOLE[0], 0.50, 0.51), Outcome(WHOLE[1], 0.65, 0.66)]
    step = next_step([best, flat, rising], Standing(1000))
    assert step is not None and (step.key, step.level.share) == ("rising", 1.0)


def test_settings_are_told_apart_at_a_low_level():
    arms = [arm("lora", 40)] + [
        arm("lora", 40, params=(("lr", lr),), default=False) for lr in (0.1, 0.2)
    ]
    truth = {(): 0.70, (("lr", 0.1),): 0.72, (("lr", 0.2),): 0.60}
    tried, _ = simulate(arms, lambda _, p, s: truth[p] - 0.1 * (1 - s), 1000)
    whole = [p for _, p, share in tried if share == 1.0]
    assert whole == [(), (("lr", 0.1),)]  # the worse of the settings was halved away
    assert {p for _, p, share in tried if share <= 0.25} == set(truth)


def test_where_the_next_level_does_not_fit_the_largest_part_of_it_that_does_is_tried():
    learner = arm("learner", 100)
    learner.outcomes = [Outcome(WHOLE[0], 0.6, 0.7)]
    taken = {left: next_step([learner], Standing(left)) for left in (30, 21, 13, 12)}
    assert [s and round(s.level.share, 4) for s in taken.values()] == [0.25, 0.1875, 0.125, None]
    # What was late is not tried again, and what is between has twice the rows at least.
    learner.outcomes.append(Outcome(Level(0.1875, 100), late=True, took=20))
    step = next_step([learner], Standing(21))
    assert step is not None and step.level.share == 0.125
    # From there all of its rows are the next.
    learner.outcomes.append(Outcome(Level(0.125, 100), 0.7, 0.75))
    assert next_step([learner], Standing(30)).level == WHOLE[1]


def test_other_settings_wait_for_more_rows_of_any_rung_that_may_lead():
    own, other = arm("r", 100), arm("r", 100, params=(("lr", 1.0),), default=False)
    best, late = arm("best", 1), arm("late", 1000)
    best.outcomes = [Outcome(WHOLE[2], 0.7, 0.72)]
    own.outcomes = [Outcome(WHOLE[1], 0.5, 0.55)]
    late.outcomes = [Outcome(WHOLE[0], 0.6, 0.65)]
    arms = [best, own, other, late]
    step = next_step(arms, Standing(280))  # settings are the shorter step, and the rung's own rows too
    assert step is not None and (step.key, step.why, step.seconds) == ("late", "more rows", 250)
    settings = Step("r", (("lr", 1.0),), WHOLE[1], 25, OTHER_SETTINGS)
    late.outcomes.append(Outcome(WHOLE[1], 0.6, 0.62))  # it has not risen
    assert next_step(arms, Standing(60)) == settings
    # Where the longer step is being made elsewhere, another worker tries them.
    late.outcomes.pop()
    assert next_step(arms, Standing(280, busy=frozenset({"late"}))) == settings


def test_other_settings_wait_for_first_figures_of_rungs_however_long_they_take():
    own, other = arm("r", 100), arm("r", 100, params=(("lr", 1.0),), default=False)
    best, long, behind = arm("best", 1), arm("long", 1600), arm("long-int8", 1600, before="long")
    best.outcomes = [Outcome(WHOLE[2], 0.7, 0.72)]
    own.outcomes = [Outcome(WHOLE[0], 0.3, 0.32)]
    second = arm("second", 1600)
    arms = [best, own, other, long, behind, second]
    step = next_step(arms, Standing(120))  # 100 s are more than a quarter of it
    assert step is not None and (step.key, step.why) == ("long", "first")
    long.outcomes = second.outcomes = [Outcome(WHOLE[0], 0.5, 0.52)]
    step = next_step(arms, Standing(20))  # what waits itself is no reason to wait
    assert step is not None and (step.key, step.why) == ("r", OTHER_SETTINGS)


def test_a_training_is_hoped_to_gain_more_by_a_level_than_a_fit():
    fitted, trained = arm("fit", 100), arm("training", 100, trained=True)
    for one in (fitted, trained):
        one.outcomes = [Outcome(WHOLE[1], 0.6, 0.6)]
    assert fitted.potential(1.0) == pytest.approx(0.7) and trained.potential(1.0) == pytest.approx(0.74)


def test_a_rung_waits_for_the_one_that_is_tried_before_it():
    plain, small = arm("lora", 100), arm("lora-int8", 90, before="lora")
    assert next_step([plain, small], Standing(1000)).key == "lora"
    plain.outcomes = [Outcome(WHOLE[1], 0.6, 0.7)]
    assert next_step([plain, small], Standing(1000)).key == "lora"
    plain.outcomes.append(Outcome(WHOLE[2], 0.7, 0.8))
    assert next_step([plain, small], Standing(1000)).key == "lora-int8"
    # Where nothing else is left that fits, a sample of it is better than nothing.
    plain.outcomes = [Outcome(WHOLE[1], 0.6, 0.7)]
    assert next_step([plain, small], Standing(10)).key == "lora-int8"
    failed = arm("lora", 100)
    failed.outcomes = [Outcome(WHOLE[0])]  # for want of memory, say
    assert next_step([failed, small], Standing(1000)).key == "lora-int8"


def test_above_a_cleared_bar_only_what_may_cost_less_is_tried():
    arms = [arm("dear", 10, total=500), arm("cheap", 20, total=5)]
    step = next_step(arms, Standing(1000, cleared=100))
    assert step is not None and step.key == "cheap"
    assert next_step([arms[0]], Standing(1000, cleared=100)) is None
    assert next_step([arms[0]], Standing(1000, cleared=100, everything=True)).key == "dear"


def test_only_what_does_not_fit_even_as_a_sample_is_left_out():
    assert next_step([arm("huge", 160_000)], Standing(100)) is None
    step = next_step([arm("large", 1_000)], Standing(100))
    assert step is not None and step.level.share == 1 / 16


def test_a_failed_rung_is_not_tried_again():
    broken = arm("broken", 1)
    broken.outcomes = [Outcome(WHOLE[2])]
    assert next_step([broken], Standing(100)) is None


def test_what_was_late_is_tried_on_a_smaller_sample_and_then_in_more_time():
    slow = arm("slow", 1)
    slow.outcomes = [Outcome(WHOLE[2], late=True, took=60)]
    step = next_step([slow], Standing(100))
    assert step is not None and step.level == WHOLE[1]
    slow.outcomes += [Outcome(WHOLE[1], late=True, took=60), Outcome(WHOLE[0], late=True, took=60)]
    assert next_step([slow], Standing(100)) is None
    again = next_step([slow], Standing(120))
    assert again is not None and (again.level, again.seconds) == (WHOLE[0], 120)
    # Not before what others can be tried at, nor where a cheaper rung clears the bar.
    fresh = arm("fresh", 80)
    step = next_step([slow, fresh], Standing(200))
    assert step is not None and step.key == "fresh"
    fresh.outcomes = [Outcome(WHOLE[2], 0.8, 0.9)]
    step = next_step([slow, fresh], Standing(200))
    assert step is not None and step.key == "slow"
    slow.total = 10
    assert next_step([slow, fresh], Standing(200, cleared=5.0)) is None
    slow.outcomes.append(Outcome(WHOLE[0]))  # it failed: more time is no cure
    assert next_step([slow], Standing(10_000)) is None


@pytest.mark.parametrize("seed", range(20))
def test_it_never_plans_beyond_its_time_and_always_ends(seed):
    draw = random.Random(seed)
    arms = [arm(f"r{i}", 10 ** draw.uniform(-1, 3)) for i in range(draw.randint(1, 12))]
    arms += [
        arm(a.key, a.cost(WHOLE[2]), params=(("lr", lr),), default=False)
        for a in arms[: len(arms) // 2] for lr in (1, 2)
    ]  # fmt: skip
    finals = {a.key: draw.random() for a in arms}
    budget = 10 ** draw.uniform(0, 3.5)
    tried, spent = simulate(arms, lambda k, _, s: curve(finals[k], 0.1)(s), budget)
    assert spent <= budget and len(tried) == len(set(tried))


def test_levels_are_samples_of_rows_or_of_steps_and_of_what_measures_them():
    assert levels(6000, 300, None, 0.0, 600) == (
        Level(1 / 64, 300), Level(1 / 16, 300), Level(1 / 4, 300), Level(1.0, 300),
    )  # fmt: skip
    assert [v.share for v in levels(6000, 300, 20, 0.0, 600)] == [1.0]  # a quarter is too few steps
    assert [v.share for v in levels(6000, 300, 1000, 0.0, 600)][0] == 1 / 64
    fresh = levels(6000, 300, 1000, 0.0, 600, fresh=True)  # 62 steps from random weights say nothing
    assert [v.share for v in fresh] == [1 / 4, 1.0]
    assert levels(100, 300, None, 0.0, 600) == (Level(1.0, 300),)
    slow = levels(0, 300, None, 1.0, 600)
    assert [v.held for v in slow] == [24, 75, 300] and {v.share for v in slow} == {1.0}


def test_time_is_shared_so_that_the_last_has_its_part():
    assert shares({"a": 1, "b": 100, "c": 100}, 101) == {"a": 1, "b": 50, "c": 50}
    assert shares({"a": 10, "b": 20}, 50) == {"a": 20, "b": 30}
    assert shares({"a": 10}, -5) == {"a": 0}


def test_what_may_lead_goes_before_short_steps_of_rungs_far_below():
    grid = (Level(1 / 64, 100), *WHOLE)
    best, near, far = arm("best", 1), arm("near", 1000, grid=grid), arm("far", 200, grid=grid)
    best.outcomes = [Outcome(WHOLE[2], 0.88, 0.91)]
    near.outcomes = [Outcome(grid[0], 0.83, 0.87)]
    far.outcomes = [Outcome(grid[0], 0.50, 0.56)]
    other = arm("far", 200, grid=grid, params=(("lr", 1.0),), default=False)
    arms = [best, near, far, other]
    step = next_step(arms, Standing(200))
    assert step is not None and (step.key, step.level.share) == ("near", 1 / 8)
    # What is left goes to the others, should the longer step not have risen.
    near.outcomes.append(Outcome(step.level, 0.83, 0.86))
    step = next_step(arms, Standing(200))
    assert step is not None and step.key == "far"


def test_of_what_may_lead_that_goes_first_which_takes_least_for_what_it_may_gain():
    # Four times the rows may gain a quarter of what is missing: here 0.0525 in 400 s.
    best, close, least = arm("best", 1), arm("close", 400), arm("least", 400)
    best.outcomes = [Outcome(WHOLE[2], 0.80, 0.82)]
    close.outcomes = [Outcome(WHOLE[1], 0.79, 0.81)]
    least.outcomes = [Outcome(WHOLE[0], 0.69, 0.70)]  # two levels in 400 s may gain 0.05
    arms = [best, close, least]
    step = next_step(arms, Standing(700))
    assert step is not None and (step.key, step.seconds) == ("close", 400)
    # A first figure counts as gaining a quarter of what is missing, 0.05: it waits where it takes long.
    slow = arm("slow", 4000, grid=(Level(1 / 16, 24), Level(1 / 4, 24)))
    step = next_step([*arms, slow], Standing(700))
    assert step is not None and (step.key, step.seconds) == ("slow", 250)
    slow.levels = slow.levels[1:]
    step = next_step([*arms, slow], Standing(1100))
    assert step is not None and (step.key, step.seconds) == ("close", 400)


def test_trainings_with_a_figure_tell_where_others_begin():
    best, others = arm("best", 1), [arm(key, 100, trained=True, total=9) for key in ("a", "b", "c")]
    best.outcomes = [Outcome(WHOLE[2], 0.8, 0.82)]
    late = others[0]
    late.outcomes = [Outcome(WHOLE[0], 0.6, 0.65)]
    arms = [best, *others]
    step = next_step(arms, Standing(30))  # the larger sample may not gain enough for its seconds
    assert step is not None and (step.key, step.why) == ("b", "first")
    others[1].outcomes = [Outcome(WHOLE[0], 0.5, 0.55)]
    step = next_step(arms, Standing(99))  # a third would begin below the best too
    assert step is not None and (step.key, step.level.share) == ("a", 0.75)
    fitted = arm("fit", 90, total=9)  # which is no training
    step = next_step([*arms, fitted], Standing(99))
    assert step is not None and step.key == "fit"
    others[1].outcomes = [Outcome(WHOLE[0], 0.85, 0.9)]  # where one is good another may be
    step = next_step(arms, Standing(30))
    assert step is not None and step.key == "c"


def test_a_smallest_sample_of_much_of_the_time_waits_for_shorter_steps():
    grid = (Level(1.0, 24), Level(1.0, 100))
    best, long = arm("best", 100), Arm("long", (), grid, lambda v: 4.0 * v.held, 10.0)
    quick, other = arm("quick", 1, total=99), arm("other", 1600, total=999)
    best.outcomes = [Outcome(WHOLE[0], 0.8, 0.85)]
    arms = [best, long, quick, other]
    step = next_step(arms, Standing(300))  # 96 s of 300 are above a quarter
    assert step is not None and step.key == "quick"
    quick.outcomes = [Outcome(WHOLE[2], 0.5, 0.55)]
    step = next_step(arms, Standing(299))
    assert step is not None and step.key == "best"
    best.outcomes.append(Outcome(WHOLE[2], 0.85, 0.9))  # and what fits is tried in the end
    other.outcomes = [Outcome(WHOLE[0], late=True)]
    step = next_step(arms, Standing(100))
    assert step is not None and (step.key, step.level) == ("long", grid[0])


def test_a_training_that_time_cut_does_not_hide_a_better_one():
    best, other = arm("best", 100), arm("other", 100)
    best.outcomes = [Outcome(WHOLE[1], 0.88, 0.9), Outcome(WHOLE[2], 0.60, 0.65, cut=True)]
    other.outcomes = [Outcome(WHOLE[1], 0.78, 0.8)]
    assert best.top is not None and best.top.value == 0.88 and not best.whole
    assert next_step([best, other], Standing(90)) is None  # neither fits, and it is not tried again
    best.outcomes[1] = Outcome(WHOLE[2], 0.91, 0.93, cut=True)
    assert best.top.value == 0.91 and not best.whole
    only = arm("only", 100)
    only.outcomes = [Outcome(WHOLE[2], 0.5, 0.6, cut=True)]
    assert only.top is not None and only.top.value == 0.5 and not only.failed
    assert next_step([only], Standing(1000)) is None
