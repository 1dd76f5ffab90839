"""Successive halving: defaults first, each setting once, whoever falls behind is given up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rung.ladder.search import Search

SPACE = {"lr": (3, 1, 9), "rank": (8, 16)}


def curve(*losses: float) -> list[tuple[int, float]]:
    return [(10 * (i + 1), loss) for i, loss in enumerate(losses)]


def survives(search: Search, losses: list[tuple[int, float]]) -> bool:
    """Whether a trial with these validations reaches its end."""
    search.ask()
    return not any(search.report(step, loss) for step, loss in losses)


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.booleans())
def test_every_setting_is_tried_once_beginning_with_the_defaults(values, falls):
    search, seen = Search(SPACE, falls, {}), []
    for value in values:
        params = search.ask()
        seen.append(tuple(params.items()))
        search.tell(params, value, [], "run")
    assert seen[0] == (("lr", 3), ("rank", 8))
    assert len(set(seen)) == 6 and search.left == 0
    assert search.ask() == {"lr": 3, "rank": 8}


@given(st.permutations([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), st.booleans())
def test_the_next_settings_are_near_the_best(values, falls):
    search = Search(SPACE, falls, {})
    for value in values:
        params = search.ask()
        ended = [t for t in search.done]
        if ended:
            best = (min if falls else max)(ended, key=lambda t: t["value"])["params"]
            untried = [p for p in search._grid if p not in [t["params"] for t in ended]]
            apart = [sum(p[n] != best[n] for n in p) for p in untried]
            assert sum(params[n] != best[n] for n in params) == min(apart)
        search.tell(params, value, [], "run")


def test_a_trial_that_is_behind_is_given_up_and_one_in_front_goes_on():
    search = Search(SPACE, True, {})
    assert survives(search, curve(4, 3, 2, 1))  # alone
    search.tell({"lr": 3, "rank": 8}, 1.0, curve(4, 3, 2, 1), "a")
    assert not survives(search, curve(5))
    assert not survives(search, curve(3.5, 3.5))
    assert survives(search, curve(3.5, 2.5, 9.0, 0.5))  # the third validation halves nothing
    assert not survives(search, curve(float("nan")))


def test_half_of_the_trials_pass_a_validation():
    search = Search(SPACE, True, {})
    for i, params in enumerate(search._grid[:3]):
        search.tell(params, float(i), curve(float(i)), "run")
    assert survives(search, curve(0.5))  # second of four
    assert not survives(search, curve(1.5))


def test_a_search_goes_on_from_what_was_kept_and_from_what_was_begun():
    first = Search(SPACE, False, {})
    for value in (0.5, 0.9):
        first.tell(first.ask(), value, curve(1.0), "run")
    again = Search(SPACE, False, first.kept)
    assert again.ask() == first.ask() and again.left == 4
    assert again.ask({"lr": 9, "rank": 16, "seed": 0}) == {"lr": 9, "rank": 16}
    assert again.ask({"lr": 3, "rank": 8}) == first.ask()  # tried already
    assert again.ask({"lr": 5, "rank": 8}) == first.ask()  # no longer in the space


def test_a_rung_without_a_space_has_one_trial():
    search = Search({}, True, {})
    assert search.ask() == {} and search.left == 1
    search.tell({}, 1.0, [], "run")
    assert search.left == 0
