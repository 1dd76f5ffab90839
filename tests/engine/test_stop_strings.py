"""Stop texts do not depend on where tokens end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rung.engine.stop_strings import StopStrings


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """Character by character: the stop text that is complete first cuts."""
    for n in range(1, len(text) + 1):
        ends = [s for s in stops if text[:n].endswith(s)]
        if ends:
            return text[: n - max(map(len, ends))], True
    return text, False


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    st.lists(st.text("abc", max_size=4), max_size=8),
)
def test_any_cut_gives_the_same(stops, pieces):
    found = StopStrings(stops)
    out = ""
    for piece in pieces:
        out += found.push(piece)
        if found.hit:
            break
    if not found.hit:
        out += found.flush()
    assert (out, found.hit) == reference("".join(pieces), stops)


def test_holds_back_no_more_than_it_must():
    found = StopStrings(["END", "stop"])
    assert found.push("the E") == "the "
    assert found.push("N") == ""
    assert found.push("T st") == "ENT "
    assert found.push("o") == ""
    assert found.flush() == "sto"
