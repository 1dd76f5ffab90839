"""Every answer of a batch is that of its model asked alone, and the base's is transformers' own."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.engine import Completion, GenerationRequest
from rung.types import Decoding, Prompt
from tests.engine.world import METHODS, engine_of, hf_greedy, tiny_llama
from tests.models import FAMILIES, VOCABULARY, tiny_adapter, tiny_model

NAMES = ("base", *METHODS)


def asked(name, ids, count=12, **decoding):
    return GenerationRequest(
        name, Prompt(tuple(ids)), Decoding(max_tokens=count, **decoding), stop_ids=()
    )


def prompts(vocabulary, seed=0, lengths=(9, 3, 17, 1)):
    numbers = random.Random(seed)
    return [tuple(numbers.randrange(3, vocabulary) for _ in range(n)) for n in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers(family):
    """Windows are shorter than the prompts; gemma2 caps its scores; bloom recomputes."""
    engine = engine_of(tiny_model(family), ())
    mine = prompts(VOCABULARY)
    answers = engine.generate([asked("base", ids) for ids in mine])
    reference = tiny_model(family)
    assert [list(a.ids) for a in answers] == [hf_greedy(reference, ids, 12) for ids in mine]


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gpt2", "bloom"])
def test_every_method_on_other_bases(family):
    from rung.engine import Engine

    engine = engine_of(tiny_model(family), ())
    bank, base = engine.bank, engine.models["base"]
    models = {"base": base}
    for i, method in enumerate(METHODS):
        slot = bank.add(tiny_adapter(bank, method, seed=i))
        models[method] = dataclasses.replace(base, name=method, slot=slot)
    engine = Engine(bank, models, memory=1 << 28)
    drawn = {"temperature": 2.0, "seed": 3}  # greedily, random bases repeat themselves
    requests = [asked(n, ids, **drawn) for n in models for ids in prompts(VOCABULARY, 1, (11, 4))]
    together = engine.generate(requests)
    assert together == [engine.generate([r])[0] for r in requests]
    assert len({a.ids for a in together}) > len(models)


def test_decoding_equals_reading_everything_again(engine):
    """The cache against the trie: a longer prompt's next token is the one that was decoded."""
    ids = prompts(258)[0]
    for name in NAMES:
        drawn = engine.generate([asked(name, ids, 10)])[0].ids
        again = [engine.generate([asked(name, ids + drawn[:n], 1)])[0].ids[0] for n in range(10)]
        assert list(drawn) == again, name


def test_equal_prompts_share_the_trie_and_draw_apart(engine):
    ids = prompts(258)[2]
    requests = [asked("lora", ids, 20, temperature=1.0, seed=s) for s in range(8)]
    answers = engine.generate(requests)
    assert len({a.ids for a in answers}) == 8
    assert answers == [engine.generate([r])[0] for r in requests]


@st.composite
def request_lists(draw):
    one = st.builds(
        lambda name, length, start, count, temperature, top_p, seed: asked(
            name,
            [(start + 7 * i) % 258 for i in range(length)],
            count,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        ),
        st.sampled_from(NAMES),
        st.integers(1, 80),
        st.integers(0, 3),
        st.integers(1, 14),
        st.sampled_from([0.0, 0.8, 1.3]),
        st.sampled_from([0.7, 1.0]),
        st.integers(0, 3),
    )
    return draw(st.lists(one, min_size=1, max_size=10))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    request_lists(), st.lists(st.integers(0, 3), max_size=10), st.sets(st.integers(0, 9), max_size=3)
)
def test_joins_leaves_and_cancels_change_no_answer(engine, lone, requests, pauses, cancelled):
    """Requests join between steps, some are cancelled on the way, and lanes move."""
    generations = []
    for i, request in enumerate(requests):
        generations.append(engine.submit(request))
        for _ in range(pauses[i] if i < len(pauses) else 0):
            engine.step()
        if i in cancelled:
            generations[i // 2].cancel()
    while engine.step():
        pass
    for request, generation in zip(requests, generations, strict=True):
        answer, alone = generation.result(0), lone(request)
        if generation.cancelled and answer.finish_reason == "cancelled":
            assert answer.ids == alone.ids[: len(answer.ids)]
        else:
            assert answer == alone
    assert engine.scheduler.runner.cache.lanes == 0


@pytest.fixture(scope="module")
def lone(engine):
    """A request's answer when nothing else runs; bare greedy ones from transformers."""
    known: dict[GenerationRequest, Completion] = {}
    reference = tiny_llama()

    def answer(request: GenerationRequest) -> Completion:
        if request not in known:
            known[request] = engine.generate([request])[0]
            if request.model == "base" and request.decoding.temperature == 0:
                expected = hf_greedy(reference, request.prompt.ids, request.decoding.max_tokens)
                assert list(known[request].ids) == expected
        return known[request]

    return answer


def test_little_memory_changes_no_answer():
    """Where the cache is full the youngest waits and is read again."""
    requests = [asked(n, ids, 60, temperature=1.0, seed=5) for n in NAMES for ids in prompts(258)]
    roomy = engine_of(tiny_llama())
    entry = roomy.scheduler.runner.cache.position_bytes
    tight = engine_of(tiny_llama(), memory=entry * 300)
    assert tight.generate(requests) == roomy.generate(requests)
    cache = tight.scheduler.runner.cache
    assert cache.budget == entry * 300


@pytest.mark.wheel
def test_a_real_base():
    from rung import bases
    from rung.data import Template
    from rung.engine import Engine, ServedModel
    from rung.forward.bank import Bank

    base = bases.load(bases.resolve("smollm2-135m"))
    model = ServedModel("smollm2", -1, Template.of(base.tokenizer))
    question = [{"role": "user", "content": "Name three colours and say why they matter."}]
    ids = model.prompt(question).ids
    expected = hf_greedy(base.model, ids, 20)
    engine = Engine(Bank(base.model), {"smollm2": model})
    answer, other = engine.generate([asked("smollm2", ids, 20), asked("smollm2", ids[:9], 20)])
    assert list(answer.ids) == expected != list(other.ids)
