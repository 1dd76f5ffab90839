"""The wait queue against plain lists: order within a model, fairness between models, all or none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine.wait_queue import WaitQueue
from rung.errors import Busy


class Waiter(SimpleNamespace):
    """What the queue looks at in a request."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def waiter(name, number=0):
    return Waiter(name=name, slot=ord(name), number=number, ended=False, positions=number)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.text("abc", min_size=1, max_size=5)),
        st.tuples(st.just("serve"), st.text("abc", max_size=4)),
        st.tuples(st.just("send back"), st.sampled_from("abc")),
        st.tuples(st.just("end"), st.integers(0, 9)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.integers(3, 12))
def test_who_is_next(actions, limit):
    queue, waiting, sent_back, count = WaitQueue(limit), [], [], 0
    order = []  # of models that somebody waits for, the one served longest ago first
    for action, what in actions:
        if action == "add":
            some = [waiter(name, count + i) for i, name in enumerate(what)]
            if len(waiting) + len(sent_back) + len(some) > limit:
                told = f"{len(waiting) + len(sent_back)} requests are waiting"
                if len(some) > limit:  # they never fit, however long one waits
                    told = f"{len(some)} at once, and {limit} may wait"
                with pytest.raises(Busy, match=told):
                    queue.add(some)
            else:
                queue.add(some)
                waiting += some
                order += [n for n in dict.fromkeys(what) if n not in order]
                count += len(some)
        elif action == "send back":
            queue.send_back(one := waiter(what))
            sent_back.insert(0, one)
        elif action == "end":
            for one in (*waiting, *sent_back)[what : what + 2]:
                one.ended = True
            gone = queue.remove_ended()
            assert set(gone) == {r for r in (*waiting, *sent_back) if r.ended}
            waiting = [r for r in waiting if not r.ended]
            sent_back = [r for r in sent_back if not r.ended]
        else:
            one = queue.first([waiter(name) for name in what])
            assert one is queue.first([waiter(name) for name in what])  # asking changes nothing
            if one is None:
                assert not waiting and not sent_back
                continue
            if sent_back:
                assert one is sent_back.pop(0)
            else:
                name = min(order, key=what.count)
                assert one is next(r for r in waiting if r.name == name)
                waiting.remove(one)
                order.remove(name)
                order.append(name)
            queue.take(one)
        order = [n for n in order if any(r.name == n for r in waiting)]
        everybody = [*waiting, *sent_back]
        assert len(queue) == len(everybody)
        assert queue.slots() == {r.slot for r in everybody}
        assert queue.extent() == (len(everybody), max((r.positions for r in everybody), default=0))
    assert set(queue.clear()) == {*waiting, *sent_back}
    assert len(queue) == 0


@settings(max_examples=100, deadline=None)
@given(st.text("abcde", min_size=1, max_size=60), st.integers(1, 4))
def test_no_model_waits_longer_than_a_round(names, lanes):
    """Where all lanes free one after another, each model's turn comes within a round of models."""
    queue, running = WaitQueue(1000), []
    queue.add([waiter(name, i) for i, name in enumerate(names)])
    since = dict.fromkeys(names, 0)
    while (one := queue.first(running)) is not None:
        queue.take(one)
        running.append(one)
        if len(running) == lanes:
            running.pop(0)
        left = {r.name for r in queue._all()}
        since = {name: 0 if name == one.name else since[name] + 1 for name in left}
        assert max(since.values(), default=0) <= lanes * len(set(names))


def test_the_patient_are_taken_beyond_the_limit():
    queue = WaitQueue(1)
    queue.add([waiter("a"), waiter("a")], patient=True)
    with pytest.raises(Busy):
        queue.add([waiter("a")])
    assert len(queue) == 2
