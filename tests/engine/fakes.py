"""A runner and a bank that compute nothing: what comes next is a function of the ids in a lane.

So every answer is known beforehand, whatever the scheduler did on the way, and a wrong move of a lane
gives a wrong answer. The runner asserts the rules that it is to be called by.
"""

from __future__ import annotations

import zlib
from types import SimpleNamespace

import torch

from rung.engine.prefill import Read
from rung.engine.registry import Registry
from rung.engine.request import GenerationRequest
from rung.engine.served_model import ServedModel
from rung.forward.adapter import Adapter
from rung.forward.findings import Findings
from rung.types import Decoding, Prompt

VOCABULARY = 5  # few, so that texts repeat themselves and drafts are made
PAGE = 4  # tokens


def next_token(slot, ids):
    """The token behind a text, for a slot."""
    return zlib.crc32(bytes([slot + 1, *ids[-6:], len(ids) % 3])) % VOCABULARY


def answer(slot, prompt, count):
    """What is drawn behind a prompt."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(next_token(slot, ids))
    return tuple(ids[len(prompt) :])


class FakeRunner:
    """The protocol `engine.runner.Runner`.

    Args:
        budget: positions of all lanes together.
        fronts: positions that a slot's adapter takes in front.
    """

    def __init__(self, budget, fronts, in_chunks=True):
        self.budget, self.fronts, self.in_chunks = budget, fronts, in_chunks
        self.lanes, self.slots = {}, {}
        self.size = 0, 0
        self.pages = set()  # (slot, ids) of the beginnings that are kept
        self.prefilled = []  # tokens of each step
        self.faults = 0  # of the next calls

    def arrange(self):
        pass

    def reserve(self, lanes, positions):
        if lanes * positions > self.budget:
            return False
        self.size = lanes, positions
        return True

    def resume(self, lane, slot, ids):
        known = (len(ids) - 1) // PAGE * PAGE if ids else 0
        while known > 0 and (slot, tuple(ids[:known])) not in self.pages:
            known -= PAGE
        self.slots[lane], self.lanes[lane] = slot, list(ids[:known])
        return known

    def read(self, chunks):
        self._break()
        self.prefilled.append(sum(c.end - c.begin for c in chunks))
        hidden, rows = [], []
        for c in chunks:
            held = self.lanes[c.lane]
            assert self.slots[c.lane] == c.slot and list(c.ids[: c.begin]) == held and c.begin < c.end
            assert c.front == self.fronts.get(c.slot, 0)
            rows.append(torch.arange(len(hidden), len(hidden) + c.end - c.begin))
            for i in range(c.begin, c.end):
                held.append(c.ids[i])
                hidden.append(next_token(c.slot, held))
        self._within()
        return Read(torch.tensor(hidden, dtype=torch.float32)[:, None], rows)

    def keep(self, chunk):
        held = self.lanes[chunk.lane]
        assert held[: chunk.end] == list(chunk.ids[: chunk.end])
        for end in range(PAGE, chunk.end + 1, PAGE):
            self.pages.add((chunk.slot, tuple(chunk.ids[:end])))

    def decode(self, ids, slots):
        self._break()
        assert slots == [self.slots[lane] for lane in range(len(ids))]
        for lane, token in enumerate(ids):
            self.lanes[lane].append(token)
        self._within()
        return one_hot([next_token(s, self.lanes[i]) for i, s in enumerate(slots)])

    def decode_again(self, lanes, ids, slots):
        raise AssertionError("nothing here overflows")

    def move(self, source, target):
        self.lanes[target], self.slots[target] = list(self.lanes[source]), self.slots[source]

    def swap(self, a, b):
        for where in (self.lanes, self.slots):
            where[a], where[b] = where[b], where[a]

    def cut(self, lane, front, count):
        assert front == self.fronts.get(self.slots[lane], 0) and count <= len(self.lanes[lane])
        del self.lanes[lane][count:]

    def clear(self, lane):
        self.lanes.pop(lane, None)
        self.slots.pop(lane, None)

    def shrink(self, lanes, positions):
        assert lanes >= len(self.lanes)
        self.size = min(self.size[0], lanes), min(self.size[1], positions)
        self._within()

    def reset(self):
        self.lanes.clear()
        self.slots.clear()
        self.size = 0, 0

    def forget(self, slot=None):
        self.pages = {p for p in self.pages if slot is not None and p[0] != slot}

    def _within(self):
        """What stands in the lanes was reserved."""
        longest = max(len(ids) + self.fronts.get(self.slots[i], 0) for i, ids in self.lanes.items())
        assert max(self.lanes) < self.size[0] and longest <= self.size[1], (self.lanes, self.size)
        assert self.size[0] * self.size[1] <= self.budget

    def _break(self):
        if self.faults:
            self.faults -= 1
            raise RuntimeError("out of luck")


class FakeBank:
    """What the generation queue and the registry need of a bank."""

    vocabulary = VOCABULARY
    findings = Findings()

    def __init__(self, fronts):
        self.adapters = {slot: Adapter(embeddings=torch.zeros(n, 1)) for slot, n in fronts.items()}

    def positions(self, slot):
        return self.adapters[slot].positions if slot in self.adapters else 0

    def logits(self, hidden, slots):
        assert len(hidden) == len(slots)
        return one_hot([int(h) for h in hidden[:, 0]])


def one_hot(ids):
    return torch.nn.functional.one_hot(torch.tensor(ids), VOCABULARY).float()


class FakeDecoder:
    def push(self, token):
        return str(token)

    def flush(self):
        return ""


def registry_of(fronts, context=1000):
    """Models `m-1`, the base, and `m0`, `m1`, ... of the slots that put something in front."""
    template = SimpleNamespace(decoder=FakeDecoder, stop_ids=(), picture_tokens=0)
    models = {f"m{slot}": ServedModel(f"m{slot}", slot, template) for slot in (-1, *fronts)}
    return Registry(FakeBank(fronts), models, context)


def asked(slot, prompt, count, **fields):
    """A request for `count` tokens."""
    return GenerationRequest(f"m{slot}", Prompt(tuple(prompt)), Decoding(max_tokens=count), **fields)
