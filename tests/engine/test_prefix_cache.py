"""What was read is used again, in pieces, within bounds, and changes no answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine import scheduler as scheduling
from rung.engine.prefix_cache import PAGE, PrefixCache
from rung.engine.queues.generate import STEPS_BETWEEN_LOOKS
from tests.engine.world import NAMES, asked, engine_of, text, tiny_llama


def counted(engine):
    """The engine's runner, telling how many ids it reads."""
    runner, seen = engine.scheduler.runner, []
    read = runner.read

    def reads(chunks):
        seen.append(sum(c.end - c.begin for c in chunks))
        return read(chunks)

    runner.read = reads
    return seen


def run(engine, *requests):
    """As `generate`, but what was read stays known, as on the engine's thread."""
    generations = engine.submit_all(requests)
    while engine.step():
        pass
    return [g.result(0) for g in generations]


@pytest.mark.parametrize("name", NAMES)
def test_a_known_beginning_is_not_read_again(name):
    engine, fresh = engine_of(tiny_llama()), engine_of(tiny_llama())
    shared = text(0, 100)
    questions = [shared + text(i, 9) for i in range(1, 5)]
    seen = counted(engine)
    way = {"temperature": 1.0, "seed": 4}
    first = run(engine, asked(name, questions[0], **way))
    assert seen == [109]
    assert first[0].cached_tokens == 0
    rest = run(engine, *(asked(name, q, **way) for q in questions[1:]))
    assert sum(seen[1:]) == 3 * (109 - 96)  # whole pages of the 100 are known
    assert [a.cached_tokens for a in rest] == [96] * 3
    assert first + rest == [fresh.generate([asked(name, q, **way)])[0] for q in questions]


def test_an_answer_is_known_in_the_next_turn():
    engine = engine_of(tiny_llama(), ())
    seen = counted(engine)
    first = text(0, 30)
    answer = run(engine, asked("base", first, 40))[0]
    again = run(engine, asked("base", [*first, *answer.ids, *text(1, 5)]))[0]
    assert again.cached_tokens == (30 + 39) // PAGE * PAGE
    assert seen == [30, 75 - again.cached_tokens]


def test_without_a_thread_what_was_read_is_forgotten_unless_it_is_to_be_remembered():
    engine, prompt = engine_of(tiny_llama(), ()), text(0, 64)
    known = [
        engine.generate([asked("base", prompt)], remember=remember)[0].cached_tokens
        for remember in (False, True, False, False)
    ]
    assert known == [0, 0, 63 // PAGE * PAGE, 0]


def test_many_answers_to_one_prompt_read_it_once():
    engine = engine_of(tiny_llama(), ())
    seen = counted(engine)
    prompt = text(0, 400)
    answers = run(engine, *(asked("base", prompt, temperature=1.0, seed=i) for i in range(12)))
    assert len({a.ids for a in answers}) == 12
    tokens = len(prompt) * (scheduling.PREFILL_TOKENS_ALONE // len(prompt)) + 12 * PAGE + len(prompt)
    assert sum(seen) <= tokens


def test_slots_do_not_share():
    engine = engine_of(tiny_llama())
    prompt = text(0, 64)
    answers = run(engine, *(asked(n, prompt, 30, temperature=1.0, seed=1) for n in NAMES))
    again = run(engine, *(asked(n, prompt, 30, temperature=1.0, seed=1) for n in NAMES))
    assert answers == again
    assert all(a.cached_tokens == 63 // PAGE * PAGE for a in again)
    assert len({a.ids for a in answers}) == len(NAMES)


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_prefilling_in_chunks_changes_no_answer(piece):
    way = {"temperature": 1.0, "seed": 2}
    requests = [asked(n, text(i, 20 + 37 * i), **way) for i, n in enumerate(NAMES)]
    expected = engine_of(tiny_llama()).generate(requests)
    engine = engine_of(tiny_llama())
    engine.scheduler.prefill_tokens = engine.scheduler.prefill_tokens_alone = piece
    seen = counted(engine)
    assert run(engine, *requests) == expected
    assert max(seen) <= piece


def test_a_long_prompt_does_not_stall_the_others():
    """Those who decode get a token in every step while it is read, and shorter prompts overtake it."""
    engine = engine_of(tiny_llama(), ())
    engine.scheduler.prefill_tokens = 16
    quick = engine.submit(asked("base", text(0, 5), 200))
    engine.step()
    long = engine.submit(asked("base", text(1, 400), 2))
    short = engine.submit(asked("base", text(2, 12), 2))
    before = quick._events.qsize()
    for _ in range(10):
        engine.step()
    assert quick._events.qsize() - before == 10
    assert short.done
    assert not long.done
    while not long.done:
        engine.step()
    alone = engine_of(tiny_llama(), ())
    assert long.result(0) == alone.generate([asked("base", text(1, 400), 2)])[0]
    quick.cancel()
    engine.step()


def test_memory_is_bounded():
    """Many different texts: what is kept stays below the budget, and answers stay right."""
    roomy = engine_of(tiny_llama())
    entry = roomy.scheduler.runner.cache.position_bytes
    engine = engine_of(tiny_llama(), memory=entry * 600)
    runner = engine.scheduler.runner
    for i in range(30):
        requests = [asked(NAMES[(i + j) % 6], text(i, 30) + text(j, 20)) for j in range(3)]
        assert run(engine, *requests) == roomy.generate(requests)
        held = runner.cache.size + runner.prefixes.size
        assert 0 < held <= entry * 600
        pages = [p for p in runner.prefixes._pages()]
        assert runner.prefixes.size == sum(p.size for p in pages)
    assert len(runner.prefixes) > 5


def test_memory_is_given_back():
    engine = engine_of(tiny_llama(), ())
    cache = engine.scheduler.runner.cache
    slow = engine.submit(asked("base", text(0, 4), 180))
    generations = [engine.submit(asked("base", text(i, 400), 2)) for i in range(8)]
    engine.step()
    peak = cache.size
    while not all(g.done for g in generations):
        engine.step()
    for _ in range(2 * STEPS_BETWEEN_LOOKS):
        engine.step()
    assert not slow.done
    assert cache.size * 4 <= peak
    while engine.step():
        pass
    assert slow.result(0) == engine_of(tiny_llama(), ()).generate([asked("base", text(0, 4), 180)])[0]


# --- the tree ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(0, 1), max_size=5), st.integers(0, 12)),
        max_size=25,
    )
)
def test_the_tree_knows_what_it_was_given(steps):
    """Against a plain set of known texts, with pages of one number each repeated PAGE times."""
    import torch

    tree, known = PrefixCache(), set()
    for slot, numbers, limit in steps:
        ids = [n for n in numbers for _ in range(PAGE)]
        found = max(0, len(tree.find(slot, ids)) - 1)
        expected = max((i for i in range(len(numbers) + 1) if (slot, *numbers[:i]) in known), default=0)
        assert found == expected
        fresh = [[torch.zeros(1), torch.zeros(1)] for _ in numbers[found:]]
        tree.add(slot, ids, found, fresh, [])
        known |= {(slot, *numbers[:i]) for i in range(len(numbers) + 1)}
        if limit < 6:
            tree.shrink(limit * 8)
            assert tree.size <= limit * 8
            left = set()
            for s in range(3):
                if s in tree._roots:
                    left |= {(s,)}
                paths = [((s,), tree._roots.get(s))]
                while paths:
                    path, page = paths.pop()
                    for key, child in (page.after if page else {}).items():
                        left.add((*path, key[0]))
                        paths.append(((*path, key[0]), child))
            assert left <= known
            known = left
    tree.forget(1)
    assert tree.find(1, [0] * PAGE) == []
    assert tree.size == sum(p.size for p in tree._pages())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 1), max_size=4)), max_size=20),
    st.integers(0, 20),
)
def test_what_was_used_last_stays(texts, limit):
    """Least recently used pages go first, and never one that another stands on."""
    import torch

    tree, used, page_bytes = PrefixCache(), {}, 4
    for now, (slot, numbers) in enumerate(texts):
        ids = [n for n in numbers for _ in range(PAGE)]
        known = max(0, len(tree.find(slot, ids)) - 1)
        tree.add(slot, ids, known, [[torch.zeros(1)] for _ in numbers[known:]], [])
        used |= {(slot, *numbers[:i]): now for i in range(1, len(numbers) + 1)}
    tree.shrink(limit * page_bytes)
    assert tree.size <= limit * page_bytes and tree.size == sum(p.size for p in tree._pages())
    kept = set()
    for path in used:
        ids = [n for n in path[1:] for _ in range(PAGE)]
        if len(tree.find(path[0], ids)) - 1 == len(path) - 1:
            kept.add(path)
    assert len(kept) == min(len(used), limit)
    assert all(path[:i] in kept for path in kept for i in range(2, len(path)))
    gone = used.keys() - kept
    assert (
        not gone
        or not kept
        or max(used[p] for p in gone)
        <= min(used[p] for p in kept if not any(q[: len(p)] == p for q in kept - {p}))
    )
