"""Models come, change and go while others are answered; what is bad fails alone."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine import GenerationRequest
from rung.engine import scheduler as scheduling
from rung.engine.request import DeadlineExceeded, EngineFault
from rung.errors import ArtefactError, ConfigError, ModelNotFound
from rung.forward.classifier import Classifier
from rung.forward.llama import lora_batch as stacking
from rung.types import Decoding, Prompt
from tests.engine.world import METHODS, engine_of, tiny_llama
from tests.models import tiny_adapter

PROMPT = tuple(range(40, 60))


def asked(name="base", count=10, ids=PROMPT, **fields):
    way = {k: fields.pop(k) for k in ("temperature", "seed") if k in fields}
    return GenerationRequest(
        name, Prompt(tuple(ids)), Decoding(max_tokens=count, **way), stop_ids=(), **fields
    )


def finish(engine):
    while engine.step():
        pass


def model_of(engine, name, slot=-1):
    return dataclasses.replace(engine.models["base"], name=name, slot=slot, root="base")


@pytest.fixture
def live():
    engine = engine_of(tiny_llama()).start()
    yield engine
    engine.stop()


# --- load, replace, unload -----------------------------------------------------------------------


def reference(method, seed, request):
    """What an adapter answers in an engine of its own."""
    engine = engine_of(tiny_llama(), ())
    engine.load(model_of(engine, request.model), tiny_adapter(engine.bank, method, seed=seed))
    return engine.generate([request])[0]


def test_in_flight_finishes_on_old_weights():
    engine = engine_of(tiny_llama(), ())
    request = asked("mine", 20, temperature=1.0, seed=1)
    old = engine.load(model_of(engine, "mine"), tiny_adapter(engine.bank, "lora", seed=1))
    before, late = engine.submit(request), engine.submit(asked("base"))
    engine.step()
    queued = engine.submit(request)
    new = engine.replace(model_of(engine, "mine"), tiny_adapter(engine.bank, "lora", seed=2))
    after = engine.submit(request)
    assert {old.slot, new.slot} <= set(engine.bank.adapters)
    finish(engine)
    engine.step()
    first, second = reference("lora", 1, request), reference("lora", 2, request)
    assert first.ids != second.ids
    assert before.result(0) == queued.result(0) == first
    assert after.result(0) == second
    assert late.done
    assert set(engine.bank.adapters) == {new.slot}
    assert old.slot not in engine.scheduler.runner.prefixes._roots


def test_unloading_and_what_is_refused(live):
    live.load(model_of(live, "mine"), tiny_adapter(live.bank, "prefix_tuning", seed=3))
    generation = live.submit(asked("mine", 30))
    live.unload("mine")
    with pytest.raises(ModelNotFound, match="mine"):
        live.submit(asked("mine"))
    with pytest.raises(ModelNotFound):
        live.unload("mine")
    with pytest.raises(ModelNotFound):
        live.replace(model_of(live, "mine"), tiny_adapter(live.bank, "lora"))
    assert generation.result(10).completion_tokens == 30
    bad = tiny_adapter(live.bank, "lora")
    next(iter(bad.parameters().values())).data[0] = float("nan")
    with pytest.raises(ArtefactError, match="lora_A holds values that are not finite"):
        live.load(model_of(live, "mine"), bad)
    fine = tiny_adapter(live.bank, "lora")
    elsewhere = dataclasses.replace(fine, linear={"nowhere": next(iter(fine.linear.values()))})
    with pytest.raises(ArtefactError, match="another base"):
        live.load(model_of(live, "mine"), elsewhere)
    assert "mine" not in live.models
    assert live.submit(asked()).result(10).completion_tokens == 10


def test_a_thousand_known_and_few_resident():
    """Adapters are read when they are asked for, and moved out again; answers stay theirs."""
    engine = engine_of(tiny_llama(), (), max_resident=3)
    made = []

    def source(seed):
        def read():
            made.append(seed)
            return tiny_adapter(engine.bank, "lora" if seed % 2 else "prompt_tuning", seed=seed)

        return read

    for i in range(1000):
        engine.load(model_of(engine, f"m{i}"), source=source(i))
    assert made == []
    wanted = [3, 8, 500, 999, 3, 42, 8]
    requests = [asked(f"m{i}", 6, temperature=1.0, seed=1) for i in wanted]
    answers = [engine.generate([r])[0] for r in requests]
    assert len(engine.bank.adapters) <= 3
    kinds = {0: "prompt_tuning", 1: "lora"}
    assert answers == [reference(kinds[i % 2], i, r) for i, r in zip(wanted, requests, strict=True)]
    assert answers == engine.generate(requests)  # more at once than may be resident
    assert 3 in made[3:]  # it had to make room
    assert len(engine.models) == 1001


def test_a_source_that_cannot_be_read_fails_its_own_request(live):
    def broken():
        raise ArtefactError("the folder is damaged")

    live.load(model_of(live, "broken"), source=broken)
    fine = live.submit(asked(count=30))
    with pytest.raises(ArtefactError, match="damaged"):
        live.submit(asked("broken"))
    misfit = model_of(live, "misfit")
    adapter = dataclasses.replace(tiny_adapter(live.bank, "lora"), linear={})
    adapter.embeddings = torch.zeros(2, 5)
    live.load(misfit, source=lambda: adapter)
    with pytest.raises(ArtefactError, match="5 wide"):
        live.submit(asked("misfit")).result(10)
    assert fine.result(10).completion_tokens == 30


# --- bad adapters, time, fairness -------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_that_overflows_fails_alone(method):
    """In reading and, where it goes wrong only later, in decoding, whatever the kind."""
    names = ("base", *METHODS)
    expected = engine_of(tiny_llama()).generate([asked(n, 8) for n in names])
    for late in (False, True):
        engine = engine_of(tiny_llama())
        adapter = engine.bank.adapters[engine.models[method].slot]
        generations = engine.submit_all([asked(n, 8) for n in names])
        if late:
            engine.step()
        for tensor in adapter.parameters().values():
            tensor.data.fill_(float("inf") if method == "lora" else float("nan"))
        finish(engine)
        for name, generation, answer in zip(names, generations, expected, strict=True):
            if name != method:
                assert generation.result(0) == answer
            elif not late or method not in ("prompt_tuning", "prefix_tuning"):  # they act in reading
                with pytest.raises(EngineFault, match=f"'{method}' computed values"):
                    generation.result(0)
        assert engine.generate([asked("base", 8)])[0] == expected[0]


def test_deadlines(live):
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="not finished in 0.05 s"):
        live.submit(asked(count=450, deadline=0.05)).result(10)
    assert time.monotonic() - begin < 5
    assert live.submit(asked(count=5, deadline=60)).result(10).completion_tokens == 5
    engine = engine_of(tiny_llama(), (), max_batch=1)
    running, waiting = engine.submit(asked(count=5)), engine.submit(asked(count=5, deadline=0))
    finish(engine)
    assert running.done
    with pytest.raises(DeadlineExceeded, match=r"\(0 tokens drawn\)"):
        waiting.result(0)


def test_a_burst_for_one_model_does_not_keep_another_waiting():
    engine = engine_of(tiny_llama(), max_batch=4, max_waiting=100)
    burst = engine.submit_all([asked("lora", 6) for _ in range(40)])
    engine.step()
    other = engine.submit(asked("base", 6))
    third = engine.submit(asked("full", 6))
    while not (other.done and third.done):
        engine.step()
    assert sum(g.done for g in burst) < 12
    finish(engine)
    assert len({g.result(0) for g in burst}) == 1


# --- vectors and labels -----------------------------------------------------------------------------


def test_vectors_are_mean_hidden_states(live):
    texts = [PROMPT, PROMPT[:3], *((5 + i,) * 400 for i in range(8))]  # more than one pass
    for name in ("base", "lora", "prefix_tuning", "prompt_tuning"):
        vectors = live.embed(name, texts)
        assert vectors.shape == (10, live.bank.config.hidden_size)
        assert vectors.norm(dim=-1).tolist() == pytest.approx([1.0] * 10, abs=1e-5)
        alone = torch.cat([live.embed(name, [t]) for t in texts])
        assert torch.allclose(vectors, alone, atol=1e-4)
    hidden = tiny_llama().model(torch.tensor([PROMPT])).last_hidden_state[0].mean(0)
    expected = hidden / hidden.norm()
    assert torch.allclose(live.embed("base", [PROMPT])[0], expected, atol=1e-4)
    with pytest.raises(ConfigError, match="empty"):
        live.embed("base", [()])


class Parity(Classifier):
    """Tells even first ids from odd ones; an id of 99 breaks it."""

    labels = ("even", "odd")

    def __init__(self):
        self.sizes = []

    def probabilities(self, backbone, slot, prompts):
        self.sizes.append(len(prompts))
        if any(p.ids[0] == 99 for p in prompts):
            raise RuntimeError("odd input")
        sure = [0.9 if p.question else 0.7 for p in prompts]
        return torch.tensor(
            [[1 - s, s] if p.ids[0] % 2 else [s, 1 - s] for p, s in zip(prompts, sure, strict=True)]
        )

    def parameters(self):
        return {}


def test_a_classifier_answers_with_a_label():
    engine = engine_of(tiny_llama())
    parity = Parity()
    engine.load(dataclasses.replace(model_of(engine, "parity"), classifier=parity))
    said = [({"role": "user", "content": "x" * (i % 3)},) for i in range(10)]
    requests = [GenerationRequest("parity", Prompt((i, 1), said[i]), logprobs=1) for i in range(10)]
    answers = engine.generate([*requests, asked("base"), asked("lora")])
    assert [a.text for a in answers[:10]] == ["even", "odd"] * 5
    assert parity.sizes == [10]
    for i, answer in enumerate(answers[:10]):
        sure = 0.9 if i % 3 else 0.7
        assert answer.finish_reason == "stop"
        assert dict(answer.labels)[answer.text] == pytest.approx(torch.tensor(sure).log().item())
        assert answer.tokens[0].logprob == answer.labels[0][1]
        assert engine.models["base"].template.decode(answer.ids) == answer.text
    assert engine.classify("parity", [Prompt((3,))])[0][0][0] == "odd"
    with pytest.raises(ConfigError, match="no classifier"):
        engine.classify("base", [Prompt((3,))])
    generations = engine.submit_all([asked("parity", ids=(i,)) for i in (2, 99, 3)])
    finish(engine)
    assert [g.result(0).text for g in (generations[0], generations[2])] == ["even", "odd"]
    with pytest.raises(EngineFault, match="odd input"):
        generations[1].result(0)


def test_errands_of_many_threads(live):
    answers = live.submit_all([asked(n, 40) for n in METHODS])
    found = []

    def errand(i):
        found.append((i, live.between(lambda: i * i)))

    threads = [threading.Thread(target=errand, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == [(i, i * i) for i in range(20)]
    assert all(a.result(10).completion_tokens == 40 for a in answers)
    with pytest.raises(ZeroDivisionError):
        live.between(lambda: 1 // 0)


# --- isolation --------------------------------------------------------------------------------------

KINDS = (*METHODS, "ia3")
ENTRY = 3 * 2 * 2 * 8 * 4  # bytes of a token: layers, keys and values, heads, width, float32


@pytest.fixture(scope="module")
def references():
    known = {}

    def answer(kind, seed, request):
        key = (kind, seed, request)
        if key not in known:
            if kind == "base":
                known[key] = engine_of(tiny_llama(), ()).generate([request])[0]
            else:
                known[key] = reference(kind, seed, request)
        return known[key]

    return answer


ACTIONS = st.one_of(
    st.tuples(
        st.just("ask"), st.integers(-1, 3), st.integers(0, 4), st.sampled_from([0.0, 1.0]),
        st.integers(1, 12),
    ),
    st.tuples(st.just("load"), st.integers(0, 3), st.sampled_from(KINDS), st.integers(0, 2)),
    st.tuples(st.just("unload"), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("step"), st.integers(1, 4)),
)  # fmt: skip


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(ACTIONS, min_size=5, max_size=30),
    st.sampled_from([250, 1 << 20]),
    st.sampled_from([5, scheduling.PREFILL_TOKENS]),
    st.sampled_from([None, 1, stacking.MAX_TOGETHER]),
)
def test_every_answer_is_its_own(references, actions, room, piece, together):
    """Joins, leaves, loads, reloads and unloads under load, with much memory and with little.

    In plain steps, and in those with joined weights, LoRA standing by lane or multiplied together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacking, "MAX_TOGETHER", together or 0)
        act(references, actions, room, piece, together is not None)


def act(references, actions, room, piece, arranged):
    engine = engine_of(tiny_llama(), (), max_batch=5, memory=ENTRY * room, max_resident=2)
    engine.scheduler.prefill_tokens, engine.scheduler.prefill_tokens_alone = piece, 4 * piece
    assert engine.scheduler.runner.cache.position_bytes == ENTRY
    if arranged:
        engine.arrange()
        assert engine.bank.inference is not None
    served, open_ = {}, []
    for action, *what in actions:
        if action == "ask":
            number, text, temperature, count = what
            name = "base" if number < 0 else f"m{number}"
            if name != "base" and name not in served:
                continue
            ids = [(3 * i) % 258 for i in range(20)] + [text] * (3 * text + 1)
            request = asked(name, count, ids, temperature=temperature, seed=text)
            open_.append((served.get(name, ("base", 0)), request, engine.submit(request)))
        elif action == "load":
            number, kind, seed = what
            engine.load(model_of(engine, f"m{number}"), tiny_adapter(engine.bank, kind, seed=seed))
            served[f"m{number}"] = (kind, seed)
        elif action == "unload" and served.pop(f"m{what[0]}", None):
            engine.unload(f"m{what[0]}")
        elif action == "cancel" and open_:
            open_[what[0] % len(open_)][2].cancel()
        elif action == "step":
            for _ in range(what[0]):
                engine.step()
    finish(engine)
    for (kind, seed), request, generation in open_:
        answer, alone = generation.result(0), references(kind, seed, request)
        if answer.finish_reason == "cancelled":
            assert answer.ids == alone.ids[: len(answer.ids)]
        else:
            assert answer == alone
    engine.step()
    assert engine.scheduler.runner.cache.lanes == 0
    assert len(engine.bank.adapters) <= max(2, len(served))


def test_reloading_under_threads_of_clients(references):
    """One name gets new weights again and again; each answer is that of one version, whole."""
    engine = engine_of(tiny_llama()).start()
    versions = [(kind, seed) for seed in range(2) for kind in METHODS]
    request = asked("mine", 8, temperature=1.0, seed=1)
    expected = {references(*v, request) for v in versions}
    adapters = [tiny_adapter(engine.bank, kind, seed=seed) for kind, seed in versions]
    engine.load(model_of(engine, "mine"), adapters[0])
    answers, stop = [], threading.Event()

    def client():
        while not stop.is_set():
            answers.extend(g.result(30) for g in engine.submit_all([request] * 4))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for adapter in adapters * 3:
        engine.load(model_of(engine, "mine"), adapter)
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert {(a.text, a.ids) for a in answers} <= {(a.text, a.ids) for a in expected}
    assert len({a.ids for a in answers}) > 3
    engine.between(lambda: None)
    engine.submit(asked("base", 2)).result(10)
    engine.submit(asked("base", 2)).result(10)
    assert len(engine.bank.adapters) == len(METHODS) + 1
    engine.stop()
