"""The scheduler on a fake runner: lanes, budgets, fairness, and every answer as it must be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine.queues.generate import GenerateQueue
from rung.engine.request import EngineFault, Generation
from rung.engine.scheduler import HEADROOM, OLDEST_SHARE, Scheduler
from tests.engine.fakes import PAGE, FakeRunner, answer, asked, registry_of

FRONTS = {0: 3, 1: 0}
REQUESTS = st.tuples(
    st.sampled_from([-1, 0, 1]),
    st.lists(st.integers(0, 2), min_size=1, max_size=14),
    st.integers(1, 14),
)


class World:
    """A generation queue whose every step is looked at."""

    def __init__(self, budget=10_000, max_batch=4, tokens=5, alone=11, in_chunks=True):
        self.runner = FakeRunner(budget, FRONTS, in_chunks)
        self.registry = registry_of(FRONTS)
        self.scheduler = Scheduler(self.runner, max_batch, max_waiting=1000)
        self.scheduler.prefill_tokens, self.scheduler.prefill_tokens_alone = tokens, alone
        self.queue = GenerateQueue(self.registry.bank, self.scheduler, self.registry)
        self.schedule_prefill = self.scheduler.schedule_prefill
        self.scheduler.schedule_prefill = self.scheduled

    def ask(self, slot, prompt, count, throughput=False, **fields):
        request = asked(slot, prompt, count, **fields)
        generation = Generation(request, throughput=throughput)
        model = self.registry.model(request.model)
        self.queue.add([self.queue.prepare(generation, model)])
        return generation

    def scheduled(self):
        """What a step prefills, within its budget and with a share for the oldest."""
        scheduler = self.scheduler
        readers = scheduler.running[scheduler.decoding :]
        chunks = self.schedule_prefill()
        if readers and self.runner.in_chunks:
            decoding = scheduler.running[: scheduler.decoding]
            waited_for = any(not r.generation.throughput for r in decoding)
            budget = scheduler.prefill_tokens if waited_for else scheduler.prefill_tokens_alone
            counts = {r: chunk.end - chunk.begin for r, chunk in chunks}
            assert sum(counts.values()) == min(budget, sum(r.unread for r in readers))
            oldest = min(readers, key=lambda r: r.admitted)
            assert counts[oldest] >= min(oldest.unread, max(1, budget // OLDEST_SHARE))
        return chunks

    def step(self):
        scheduler = self.scheduler
        drawn = {r: len(r.ids) for r in scheduler.running[: scheduler.decoding]}
        del self.runner.prefilled[:]
        busy = self.queue.step(self.registry.bank)
        running, decoding = scheduler.running, scheduler.decoding
        assert [r.lane for r in running] == list(range(len(running))), "a gap between lanes"
        assert len(running) <= scheduler.max_batch
        assert all(r.unread == 1 for r in running[:decoding]), "who decodes stands in front"
        assert all(r.unread > 0 and len(r.ids) >= r.prompt for r in running[decoding:])
        assert set(self.runner.lanes) <= set(range(len(running)))
        for request, length in drawn.items():  # unless it ended or was preempted
            assert request.lane < 0 or len(request.ids) > length, "who decodes waits for nobody"
        return busy

    def finish(self, most=2000):
        for _ in range(most):
            if not self.step():
                return
        raise AssertionError("it does not end")


def check(generation, cancelled=False):
    request = generation.request
    slot, expected = int(request.model[1:]), request.decoding.max_tokens
    whole = answer(slot, request.prompt.ids, expected)
    told = generation.result(0)
    if told.finish_reason == "cancelled":
        assert cancelled and told.ids == whole[: len(told.ids)]
    else:
        assert told.ids == whole and told.finish_reason == "length"
    assert told.text == "".join(map(str, told.ids))


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(REQUESTS, st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from([40, 90, 200, 10_000]),
    st.booleans(),
)
def test_every_answer_is_right_whatever_joins_leaves_and_waits(
    requests, max_batch, tokens, budget, in_chunks
):
    world = World(budget, max_batch, tokens, 3 * tokens, in_chunks)
    generations = []
    for i, ((slot, prompt, count), pause, throughput) in enumerate(requests):
        generations.append(world.ask(slot, prompt, count, throughput))
        for _ in range(pause):
            world.step()
        if i % 5 == 4:
            generations[i // 2].cancel()
    world.finish()
    for generation in generations:
        check(generation, cancelled=True)
    assert not world.scheduler.busy and not world.runner.lanes
    assert world.queue.slots() == set()


@settings(max_examples=100, deadline=None)
@given(st.lists(REQUESTS, min_size=2, max_size=8), st.integers(30, 80))
def test_who_is_preempted_resumes_and_the_oldest_never_is(requests, budget):
    """Little memory: it is the youngest that gives way, and all are answered in the end."""
    world = World(budget, max_batch=6, tokens=20, alone=20)
    generations = [world.ask(*r) for r in requests]
    scheduler = world.scheduler
    send_back = scheduler.waiting.send_back

    def youngest(request):
        assert all(request.admitted > r.admitted for r in scheduler.running)
        send_back(request)

    scheduler.waiting.send_back = youngest
    world.finish()
    for generation in generations:
        check(generation)


def test_preemption_happens_where_memory_is_short():
    """The property above would hold if nothing were ever preempted."""
    world, found = World(2 * HEADROOM + 44, max_batch=2), []
    scheduler = world.scheduler
    send_back = scheduler.waiting.send_back
    scheduler.waiting.send_back = lambda r: (found.append(r), send_back(r))
    generations = [world.ask(-1, [i], 120) for i in (0, 1)]
    world.finish()
    assert found and found[0].generation is generations[1]
    for generation in generations:
        check(generation)


def test_what_can_never_fit_fails_and_the_others_do_not():
    world = World(budget=30)
    large, small = world.ask(-1, [1] * 40, 2), world.ask(-1, [1] * 4, 2)
    grows = world.ask(-1, [2] * 4, 60)  # fits at first
    world.finish()
    check(small)
    for generation in (large, grows):
        with pytest.raises(EngineFault, match="memory does not suffice"):
            generation.result(0)


@settings(max_examples=50, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=8), st.integers(0, 12))
def test_a_fault_ends_what_runs_and_what_waits_goes_on(requests, steps):
    world = World(max_batch=2)
    generations = [world.ask(*r) for r in requests]
    for _ in range(steps):
        world.step()
    world.runner.faults = 1
    world.queue.step(world.registry.bank)
    broke, world.runner.faults = world.runner.faults == 0, 0
    world.finish()
    failed = 0
    for generation in generations:
        try:
            check(generation)
        except EngineFault as fault:
            assert "RuntimeError: out of luck" in str(fault)
            failed += 1
    assert (1 <= failed <= 2) if broke else failed == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=6))
def test_a_kept_beginning_is_not_read_again(requests):
    """And a prompt's own log-probabilities are computed from its beginning all the same."""
    world = World(tokens=100, alone=100)
    first = [world.ask(*r) for r in requests]
    world.finish()
    again = [world.ask(*r) for r in requests]
    del world.runner.prefilled[:]
    world.finish()
    told = world.ask(*requests[0], prompt_logprobs=0)
    world.finish()
    for generation in (*first, *again, told):
        check(generation)
    for generation in again:
        count = len(generation.request.prompt.ids)
        assert generation.result(0).cached_tokens == (count - 1) // PAGE * PAGE
    assert told.result(0).cached_tokens == 0
    assert len(told.result(0).prompt) == len(requests[0][1])


def test_the_oldest_reader_gets_its_share_under_a_stream_of_short_prompts():
    """A long prompt ends, although there is always a shorter one."""
    world = World(max_batch=4, tokens=8, alone=8)
    long = world.ask(-1, [1, 2, 0] * 40, 1)
    steps = 0
    while not long.done:
        while len(world.scheduler.running) + len(world.scheduler.waiting) < 4:
            world.ask(0, [steps % 3, 1, 2, steps % 2] * 2, 2)
        world.step()
        steps += 1
    assert steps <= 120 / (8 // OLDEST_SHARE) + 2
    check(long)


def test_large_chunks_only_where_nobody_waits_for_single_tokens():
    for throughput, budget in ((True, 40), (False, 4)):
        world = World(tokens=4, alone=40)
        world.ask(-1, [1], 30, throughput)
        world.step()
        world.ask(-1, [1, 2] * 50, 1, throughput)
        world.step()
        assert world.runner.prefilled[0] == budget
        world.finish()


def test_room_for_all_that_wait_is_made_at_once():
    world = World(budget=1000, max_batch=4)
    for _ in range(6):
        world.ask(0, [1] * 20, 5)
    world.scheduler.reserve_waiting()
    assert world.runner.size == (4, 20 + 3 + 1)
    world.finish()
