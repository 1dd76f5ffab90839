"""How fast this machine is on a base, from one product and two passes; kept, so that it is asked once.

A pass over `n` tokens takes about `a + b n` seconds: reading the weights and calling the modules, then
arithmetic. Two passes give both. What finished rungs really took corrects what was counted.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch

from rung import home
from rung.bases.cache import write_record
from rung.forward.bank import Bank
from rung.methods.workload import Workload
from rung.train.estimate import limited_threads
from rung.train.estimate import speed as product_speed

PASS_SECONDS = 0.4  # that the longer of the two passes is meant to take
SPEED_SECONDS, TURNS = 1.5, 3  # passes are repeated, but not beyond so many seconds
MAX_PASS_TOKENS, MIN_PASS_TOKENS = 256, 16
BUSY = 0.75  # of the speed that was kept: below it somebody else computes too
FASTER = 1.3  # times the speed that was kept: then that was measured beside others, and is again
OTHERS = 0.2  # share of the cores in use by others from which a machine is called busy
MOMENT_SECONDS = 0.15  # until it is looked again whether one thread is faster
LOOK_SECONDS = 0.2
MIN_GAIN_OF_ONE_THREAD = 1.2  # times as fast must one thread be as all of them to be taken
PROBE = 384  # rows and columns of the product that this is told by
# Of the speed of one product in float32: a sentence encoder in padded batches, and on one core fits of
# classifiers; and parameters that an optimiser changes per second.
ENCODER_SHARE, FIT_SHARE, UPDATES = 0.45, 0.04, 1.5e8
ENCODER_WEIGHTS = 10.6e6  # of MiniLM's layers, which each token passes
MEMORY = 0.5  # weight of the newest correction against those before


@dataclass
class Machine:
    """A machine's speed on one base.

    Attributes:
        product: operations per second of a matrix product in the base's precision, all cores.
        float32: the same in float32, in which encoders compute; 0: as `product`.
        core: of a float32 product on one core of the processor now, by which fits are counted; 0: half
            of `float32`.
        token, call: seconds of a token in a pass, and of the pass itself.
        busy: how much slower than the best that was ever measured, 1.0 where it is not.
        others: share of all cores that other processes used when it was measured.
        corrections: by what is corrected, seconds that were taken over seconds that were counted.
    """

    product: float
    token: float
    call: float
    busy: float = 1.0
    corrections: dict[str, float] = field(default_factory=dict)
    others: float = 0.0
    float32: float = 0.0
    core: float = 0.0
    path: Any = None

    @classmethod
    def of(cls, bank: Bank) -> Machine:
        """What was kept for this machine and base, or a measurement of about a second."""
        path = home.folder("cache") / "speed" / f"{_name(bank)}.json" if bank.digest else None
        others = used_by_others()
        settle_threads(str(bank.device))
        now = product_speed(str(bank.dtype).removeprefix("torch."), str(bank.device))
        known = _read(path)
        if known is None or now > FASTER * known.product:  # what was kept was measured when busy
            token, call = _passes(bank, now)
            known = cls(now, token, call, corrections=known.corrections if known else {})
        known.path, known.others = path, others
        if now < BUSY * known.product:
            known.busy = known.product / now
        known.product = max(known.product, now)
        plain = now if bank.dtype == torch.float32 else product_speed("float32", str(bank.device))
        known.float32 = max(known.float32, plain)
        with limited_threads(1):  # not kept: who else computes now is in it already
            known.core = product_speed("float32", "cpu", PROBE)
        known.keep()
        return known

    def seconds(self, work: Workload) -> float:
        """Seconds of work as counted, on the machine as it is now."""
        plain = self.float32 or self.product
        encoder = 2 * ENCODER_WEIGHTS / (ENCODER_SHARE * plain)
        return self.busy * (
            (work.read + work.written) * self.token
            + work.passes * self.call
            + work.encoded * encoder
            + work.updated / UPDATES
        ) + work.fitted / (FIT_SHARE * (self.core or plain / 2))

    def alone(self, read: float, written: float) -> float:
        """Seconds of one request by itself: its prompt in one pass, then a pass for each token."""
        calls = (1 if read else 0) + written
        return self.busy * (read * self.token + calls * self.call)

    # --- corrections ------------------------------------------------------------------------------

    def factor(self, *names: str) -> float:
        """What counted seconds are multiplied by: the first name that is known, else the median."""
        for name in names:
            if name in self.corrections:
                return self.corrections[name]
        return 1.0

    def learn(self, name: str, counted: float, taken: float) -> None:
        """Correct by a finished piece of work; what was known before still counts."""
        if counted <= 0 or taken <= 0:
            return
        seen = min(20.0, max(0.05, taken / counted))
        before = self.corrections.get(name)
        mixed = seen if before is None else math.exp(
            MEMORY * math.log(seen) + (1 - MEMORY) * math.log(before)
        )  # fmt: skip
        self.corrections[name] = mixed

    def keep(self) -> None:
        """Write it for the next climb on this machine and base."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = {
                k: v for k, v in asdict(self).items() if k not in ("path", "busy", "others", "core")
            }
            write_record(self.path, kept)

    @property
    def told(self) -> str | None:
        """A sentence where others compute beside; None on a machine of one's own."""
        if self.busy <= 1.0 and self.others < OTHERS:
            return None
        return (
            f"the machine is busy (others use {self.others:.0%} of its cores): times are those of a "
            "busy machine and are corrected as rungs finish"
        )


def _passes(bank: Bank, product: float) -> tuple[float, float]:
    """(seconds of a token, seconds of a call), after a pass that warms up; the best of three each where
    that takes no longer than `SPEED_SECONDS`."""
    weights = sum(p.numel() for p in bank.model.parameters())
    fitting = PASS_SECONDS * 0.5 * product / max(2 * weights, 1)
    count = int(min(MAX_PASS_TOKENS, max(MIN_PASS_TOKENS, fitting)))
    count = max(2, min(count, bank.context - 1))

    def once(tokens: int) -> float:
        began = time.perf_counter()
        with torch.no_grad():
            bank.dummy_pass(tokens)
        if bank.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once(MIN_PASS_TOKENS)
    began = time.perf_counter()
    one, whole = once(1), once(count)
    for turn in range(1, TURNS):
        if (time.perf_counter() - began) * (turn + 1) / turn > SPEED_SECONDS:
            break
        one, whole = min(one, once(1)), min(whole, once(count))
    token = max(whole - one, 0.1 * whole) / (count - 1)
    return token, max(one - token, 0.05 * one)


def settle_threads(device: str = "cpu") -> int:
    """Compute with as many threads as are fastest now, and say how many.

    Threads of one product wait for each other; where others use the cores too, one of them is always
    late, and fewer threads are faster. There are as many as cores that others leave free, or one where
    a product is faster by it: half a tenth of a second is all that it takes to see. Where it is, it is
    looked at again a moment later: threads that a fit has left behind may still be ending, and a
    training of minutes follows.
    """
    most = _first_threads()
    if device != "cpu" or most < 2:
        return most
    cores = os.cpu_count() or most
    most = max(1, min(most, round(cores * (1 - used_by_others()))))
    alone = most == 1 or all(_faster_alone(most, wait) for wait in (0.0, MOMENT_SECONDS))
    chosen = 1 if alone else most
    torch.set_num_threads(chosen)
    return chosen


def _faster_alone(most: int, wait: float) -> bool:
    """Whether one thread is faster than so many, after a number of seconds."""
    time.sleep(wait)
    speeds = {}
    for count in (1, most):
        torch.set_num_threads(count)
        speeds[count] = statistics.median(product_speed("float32", "cpu", PROBE) for _ in range(5))
    return speeds[1] > MIN_GAIN_OF_ONE_THREAD * speeds[most]


@cache
def _first_threads() -> int:
    """The threads that this process was given."""
    return torch.get_num_threads()


def used_by_others() -> float:
    """Share of all cores that others used since this was last asked; at first while it sleeps a moment.
    What was found a moment ago still holds.

    What this process and its children took is left out.
    """
    global _OTHERS
    if _SEEN is not None and _OTHERS is not None and time.perf_counter() - _SEEN.at < LOOK_SECONDS:
        return _OTHERS
    if _SEEN is None:
        _look()
        time.sleep(LOOK_SECONDS)
    before = _SEEN
    assert before is not None
    now = _look()
    used = (now.used - before.used) - (now.own - before.own)
    _OTHERS = min(1.0, max(0.0, used / max(now.all - before.all, 1e-9)))
    return _OTHERS


@dataclass(frozen=True)
class _Look:
    """Seconds of all cores, those in use, and those of this process, at a time."""

    at: float
    all: float
    used: float
    own: float


_SEEN: _Look | None = None
_OTHERS: float | None = None  # the share that was last found


def _look() -> _Look:
    """See what all cores and this process have done by now."""
    import psutil

    global _SEEN
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    every = sum(
        getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")
    )
    spent = own.user + own.system + own.children_user + own.children_system
    idle = times.idle + getattr(times, "iowait", 0.0)
    _SEEN = _Look(time.perf_counter(), every + idle, every, spent)
    return _SEEN


def _name(bank: Bank) -> str:
    """Of a file for this base in this precision on this machine."""
    parts = [bank.digest[:16], str(bank.dtype).removeprefix("torch."), str(bank.device.type),
             str(_first_threads()), str(os.cpu_count())]  # fmt: skip
    return "-".join(parts)


def _read(path: Any) -> Machine | None:
    """What was kept; None where there is nothing, or nothing that can be read."""
    if path is None:
        return None
    try:
        kept = json.loads(path.read_text("utf-8"))
        return Machine(
            float(kept["product"]), float(kept["token"]), float(kept["call"]),
            float32=float(kept.get("float32", 0.0)),
            corrections={str(k): float(v) for k, v in kept["corrections"].items()},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
