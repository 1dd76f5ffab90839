"""The engine on its thread: streaming, stopping, cancelling, failing alone."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from rung import process
from rung.data import Template
from rung.engine import GenerationRequest, Token
from rung.engine.request import ContextExceeded, EngineFault, EngineStopped
from rung.errors import Busy, ConfigError, ModelNotFound
from rung.types import Decoding, Prompt
from tests.engine.world import METHODS, engine_of, tiny_llama
from tests.tokens import tiny_tokenizer

PROMPT = tuple(range(40, 60))
LIBRARIES = Path(torch.__file__).parent / "lib"


def asked(name="base", count=10, ids=PROMPT, stop_ids=(), **decoding):
    return GenerationRequest(
        name, Prompt(tuple(ids)), Decoding(max_tokens=count, **decoding), stop_ids=stop_ids
    )


@pytest.fixture
def live():
    engine = engine_of(tiny_llama()).start()
    yield engine
    engine.stop()


def wait_until(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def test_streams_what_it_answers(live):
    expected = engine_of(tiny_llama()).generate([asked(count=30)])[0]
    generation = live.submit(asked(count=30))
    tokens = list(generation)
    assert "".join(t.text for t in tokens) == generation.result().text == expected.text
    assert tuple(t.id for t in tokens) == expected.ids
    assert expected.finish_reason == "length"
    assert expected.text == live.model("base").template.decode(expected.ids)


def test_a_stop_token_ends_the_answer_and_is_not_in_its_text(engine):
    free = engine.generate([asked(count=10)])[0]
    stop = next(t for i, t in enumerate(free.ids) if i > 2 and t not in free.ids[:i])
    answer = engine.generate([asked(count=10, stop_ids=(stop,))])[0]
    at = free.ids.index(stop)
    assert answer.finish_reason == "stop"
    assert answer.ids == free.ids[: at + 1]
    assert answer.text == engine.models["base"].template.decode(free.ids[:at])


def test_a_stop_text_across_tokens(engine):
    decoding = {"count": 40, "temperature": 1.0, "seed": 1}
    free = engine.generate([asked(**decoding)])[0].text
    stop = free[10:13]
    answer = engine.generate([asked(**decoding, stop=(stop,))])[0]
    assert answer.finish_reason == "stop"
    assert answer.text == free[: free.index(stop)]


def test_threads_of_clients(live):
    names = ("base", *METHODS)
    requests = [asked(names[i % 6], 12, temperature=0.9, seed=i) for i in range(24)]
    expected = engine_of(tiny_llama()).generate(requests)
    answers = [None] * len(requests)

    def client(i):
        answers[i] = live.submit(requests[i]).result(30)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == expected


def test_cancelling_frees_the_lane(live):
    generation = live.submit(asked(count=450))
    next(iter(generation))
    generation.cancel()
    wait_until(lambda: not live.scheduler.busy, 1.0)
    answer = generation.result(1)
    assert answer.finish_reason == "cancelled"
    assert 0 < len(answer.ids) < 450


def test_cancelling_what_waits():
    engine = engine_of(tiny_llama(), (), max_batch=1)
    first, second = engine.submit(asked(count=5)), engine.submit(asked(count=5))
    engine.step()
    second.cancel()
    engine.step()
    assert second.result(0).ids == ()
    assert not first.done


def test_refusals_name_what_is_wrong(engine):
    with pytest.raises(ModelNotFound, match="did you mean 'lora'"):
        engine.submit(asked("lor"))
    with pytest.raises(ConfigError, match="empty"):
        engine.submit(asked(ids=()))
    for bad in (-1, 258):
        with pytest.raises(ConfigError, match="0 to 257"):
            engine.submit(asked(ids=(5, bad)))
    with pytest.raises(ContextExceeded, match="600 tokens.*context of 'base' is 512"):
        engine.submit(asked(ids=(5,) * 600))
    with pytest.raises(ContextExceeded, match="510 tokens.*512 tokens, 3 of them taken by its adapter"):
        engine.submit(asked("prefix_tuning", ids=(5,) * 510))
    assert not engine.scheduler.busy


def test_tokens_that_the_base_has_no_rows_for_are_named(engine):
    one, extra = engine.models["base"], tiny_tokenizer()
    extra.add_tokens(["<|more_0|>", "<|more_1|>"], special_tokens=True)
    engine.models["odd"] = dataclasses.replace(one, name="odd", template=Template.of(extra))
    rows = engine.bank.vocabulary
    with pytest.raises(ConfigError, match=r"0 to \d+: the tokenizer knows <\|more_1\|>, and the base"):
        engine.submit(asked("odd", ids=(5, rows + 1)))
    with pytest.raises(ConfigError, match=r"outside 0 to \d+$"):  # an id that no tokenizer knows
        engine.submit(asked("odd", ids=(5, rows + 2)))


def test_the_context_bounds_the_answer(engine):
    answer = engine.generate([asked(count=10**9, ids=(5,) * 500)])[0]
    assert (len(answer.ids), answer.finish_reason) == (12, "length")


def test_a_full_queue_takes_all_or_none():
    engine = engine_of(tiny_llama(), (), max_batch=2, max_waiting=3)
    with pytest.raises(Busy):
        engine.submit_all([asked()] * 4)
    assert not engine.scheduler.busy
    engine.submit_all([asked()] * 3)
    with pytest.raises(Busy):
        engine.submit(asked())
    assert len(engine.generate([asked()] * 9)) == 9  # patient


def test_values_that_are_not_finite_fail_alone():
    engine = engine_of(tiny_llama())
    spoiled = engine.bank.adapters[engine.models["prefix_tuning"].slot]
    spoiled.keys_values = torch.full_like(spoiled.keys_values, float("nan"))
    requests = [asked(n, 8) for n in ("base", "lora", "prefix_tuning", "prompt_tuning", "full")]
    expected = {n: engine_of(tiny_llama()).generate([asked(n, 8)])[0] for n in ("base", "lora", "full")}
    generations = engine.submit_all(requests)
    while engine.step():
        pass
    for request, generation in zip(requests, generations, strict=True):
        if request.model == "prefix_tuning":
            with pytest.raises(EngineFault, match="'prefix_tuning' computed values.*not finite"):
                generation.result(0)
        elif request.model in expected:
            assert generation.result(0) == expected[request.model]
    # Nor does the lane keep anything of it.
    assert engine.generate([asked("base", 8)])[0] == expected["base"]


def test_a_fault_ends_what_is_in_flight_and_nothing_more(live, monkeypatch):
    expected = live.submit(asked()).result(10)
    runner = live.scheduler.runner
    decode = runner.decode

    def breaks(ids, slots):
        monkeypatch.setattr(runner, "decode", decode)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(runner, "decode", breaks)
    generation = live.submit(asked())
    with pytest.raises(EngineFault, match="out of luck"):
        generation.result(10)
    events = []
    with pytest.raises(EngineFault):
        events.extend(generation)
    assert all(isinstance(e, Token) for e in events)
    assert live.submit(asked()).result(10) == expected


def test_stopping_fails_what_is_left_and_starting_goes_on():
    engine = engine_of(tiny_llama(), ()).start()
    generation = engine.submit(asked(count=490))
    engine.stop()
    with pytest.raises(EngineStopped):
        generation.result(5)
    with pytest.raises(EngineStopped):
        engine.submit(asked())
    assert not engine.alive
    assert engine.start().submit(asked()).result(10).finish_reason == "length"
    engine.stop()


def test_a_listener_gets_every_event(live):
    events = []
    generation = live.submit(asked(count=6), lambda g, e: events.append((g, e)))
    wait_until(lambda: generation.done)
    wait_until(lambda: len(events) == 7)
    assert [e.id for _, e in events[:-1]] == list(events[-1][1].ids)


def test_memory_is_given_back_after_a_pause():
    engine = engine_of(tiny_llama())
    engine.idle_seconds = 0.05
    engine.start()
    try:
        first = engine.generate([asked()])
        wait_until(lambda: engine.scheduler.runner.cache.size == 0)
        assert engine.generate([asked()]) == first
    finally:
        engine.stop()


EXIT = """
from tests.engine.test_engine import asked, engine_of, tiny_llama
engine = engine_of(tiny_llama()).start()
generation = engine.submit(asked(count=400))
next(iter(generation))
"""


def test_python_may_end_while_the_engine_works():
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not list(LIBRARIES.glob("libgomp*.so*")), reason="needs GNU's OpenMP")
def test_helper_threads_are_released():
    def count():
        return len(os.listdir("/proc/self/task"))

    def work():
        a = torch.ones(600, 600)
        before = count()
        torch.set_num_threads(4)
        (a @ a).add_(1).mul_(torch.ones(600, 600)).sum()
        during = count()
        process.release()
        wait_until(lambda: count() < during)
        counts.append((before, during, count()))

    counts = []
    threads = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(threads)
    ((before, during, after),) = counts
    assert during > before and after < during
