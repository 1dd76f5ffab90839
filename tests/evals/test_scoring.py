"""Scores on tries against plain padded rows through transformers."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.models import VOCABULARY, tiny_adapter, tiny_model

ids = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=12).map(tuple)
few = st.lists(st.integers(3, 6), min_size=1, max_size=9).map(tuple)  # beginnings often coincide


@st.composite
def items(draw):
    """Items that share beginnings: a common one, some half-way, and answers of any length."""
    from rung.evals.scoring import Item

    common = draw(st.lists(st.integers(3, VOCABULARY - 1), max_size=20).map(tuple))
    middles = draw(st.lists(ids, min_size=1, max_size=3))
    made = []
    for _ in range(draw(st.integers(1, 7))):
        middle = draw(st.sampled_from(middles)) if draw(st.booleans()) else ()
        answers = draw(st.lists(few, min_size=1, max_size=4))
        made.append(Item(common + middle + draw(few), tuple(answers)))
    return made


def reference(bank, slot, items):
    """Each answer in a row of its own through the model's own attention."""
    import torch

    from rung.forward.trie import Sequence

    out = []
    for item in items:
        scores = []
        for answer in item.answers:
            trie = bank.trie([Sequence(item.prompt + answer, slot=slot)])
            with torch.no_grad():
                hidden = bank.forward(trie)[-len(answer) - 1 : -1]
                logits = bank.logits(hidden, [slot] * len(answer)).log_softmax(-1)
            scores.append(sum(logits[i, t].item() for i, t in enumerate(answer)))
        out.append(scores)
    return out


@pytest.mark.parametrize("method", [None, "lora", "prompt_tuning", "prefix_tuning", "last_layers"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "bloom"])
def test_scores_equal_those_of_padded_rows(family, method):
    from rung.evals.scoring import score
    from rung.forward.bank import Bank

    bank, plain = Bank(tiny_model(family)), Bank(tiny_model(family))
    slots = [-1 if method is None else b.add(tiny_adapter(b, method)) for b in (bank, plain)]
    plain.model.set_attn_implementation("eager")
    plain.why_not = "padded rows are wanted here"

    @settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
    @given(items(), st.sampled_from([1, 7, 30, 1000]))
    def check(items, max_tokens):
        found = score(bank, slots[0], items, max_tokens=max_tokens)
        expected = reference(plain, slots[1], items)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4, rel=1e-5)

    check()


@pytest.mark.parametrize("max_tokens", [8, 40, 10_000])
def test_no_token_is_computed_twice(max_tokens, monkeypatch):
    from rung.evals.scoring import Item, score
    from rung.forward.bank import Bank

    bank = Bank(tiny_model("llama"))
    made = [Item((*range(3, 40), 50 + i), ((4,), (5, 6), (5, 7, 8))) for i in range(12)]
    computed = []
    score(bank, -1, made[:1])  # tries the base's joined weights
    embed = bank.embed
    monkeypatch.setattr(bank, "embed", lambda x, *rest: (computed.append(len(x)), embed(x, *rest))[1])
    found = score(bank, -1, made, max_tokens=max_tokens)
    # The shared beginning, and per item its own token, the 5 that two answers share, and the 7.
    # Where a slice ends within an item, only what the next answer follows comes again.
    assert 37 + 12 * 3 <= sum(computed) <= 37 + 12 * 3 + (2 * len(computed) if max_tokens == 8 else 0)
    for ours, theirs in zip(found, score(bank, -1, made[::-1])[::-1], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_it_stops_when_asked_and_tells_how_far_it_is():
    from rung.errors import Interrupted
    from rung.evals.scoring import Item, score
    from rung.forward.bank import Bank

    bank = Bank(tiny_model("llama"))
    made = [Item((3, 4, 5 + i), ((6,), (7, 8))) for i in range(10)]
    seen: list[int] = []
    with pytest.raises(Interrupted):
        score(bank, -1, made, max_tokens=10, stopping=lambda: len(seen) == 2, progress=seen.append)
    seen.clear()
    score(bank, -1, made, max_tokens=10, progress=seen.append)
    assert sum(seen) == 20 and len(seen) > 2
    with pytest.raises(ValueError, match="empty"):
        score(bank, -1, [Item((3,), ((),))])
