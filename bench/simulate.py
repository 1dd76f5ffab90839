"""Routing over replicas by simulation: warm-adapter routing beside random and least-loaded.

    make bench-simulate
    make bench-simulate ARGS="--replicas 2 --adapters 8"
    make bench-simulate ARGS="--trace requests.jsonl --base smollm2-135m"

Replays arrivals against `rung.server.replicas.policy`, by which `rung serve --replicas` routes. A trace
has a line of JSON for each request: `at` (seconds), `model`, `text`, `tokens` (of the answer). Without
one, arrivals are Poisson with four bursts, adapters are asked by Zipf's law, each has a
system prompt of its own, and most requests go on with an earlier conversation; there are so many that
replicas without a cache would be busy for `--load` of their time.

A replica steps as the engine does: it admits requests while lanes are free, reads chunks of prompts,
and draws a token for each other lane. What a step takes follows from constants that are measured first,
on this machine: seconds of a pass, of a token that is read, and of a lane that decodes. A replica keeps
so many tokens of keys and values, and the least recently used go first.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from bench import report
from rung.server.replicas.policy import BLOCK, Balanced, Random, Warm, blocks

LEAST = 1.3  # times as many tokens must warm routing save as random
LETTERS = 4  # of a token
BLOCK_TOKENS = BLOCK // LETTERS
CHUNK = 256  # tokens of prompts that one step reads at most
BURSTS, BURST_SHARE, BURST = 4, 0.2, 1.5  # how many, share of the time, times the rate
LANES_AT_ONCE = 8  # that share a pass, where the rate is reckoned from the load
GOES_ON = 0.6  # of the requests go on with a conversation
OPEN = 200  # conversations that may be gone on with
SCRATCH = "scratch:layers=12,width=512,heads=8,vocab=8000,context=1024"


@dataclass(frozen=True)
class Constants:
    """Seconds of a pass, of a token that is read in it, and of a lane that decodes in it."""

    call: float
    token: float
    lane: float


@dataclass(kw_only=True)
class Asked:
    """A request: when, of whom, what; `drawn` tokens of the answer, `first` when its first came."""

    at: float
    model: str
    text: str
    tokens: int
    keys: list[bytes] = field(default_factory=list)
    left: int = 0  # tokens of the prompt that are not read yet
    drawn: int = 0
    first: float | None = None


@dataclass
class Simulated:
    """One replica: lanes, a queue, and what it keeps of texts."""

    lanes: int
    room: int
    kept: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    waiting: deque[Asked] = field(default_factory=deque)
    running: list[Asked] = field(default_factory=list)
    saved: int = 0
    read: int = 0
    busy: float = 0.0

    def step(self, now: float, constants: Constants) -> tuple[float, list[Asked]]:
        """One step of the engine from `now`: (when it ends, requests that are answered)."""
        while self.waiting and len(self.running) < self.lanes:
            self.running.append(self._admit(self.waiting.popleft()))
        budget, decoding = CHUNK, 0
        for one in self.running:
            part = min(budget, one.left)
            budget -= part
            one.left -= part
            decoding += part == 0 and one.left == 0
        seconds = constants.call + constants.token * (CHUNK - budget) + constants.lane * decoding
        end = now + seconds
        self.busy += seconds
        for one in self.running:
            if one.left == 0:
                one.first = end if one.first is None else one.first
                one.drawn += 1
        done = [one for one in self.running if one.drawn >= one.tokens]
        self.running = [one for one in self.running if one.drawn < one.tokens]
        return end, done

    def _admit(self, one: Asked) -> Asked:
        known = next((i for i, key in enumerate(one.keys) if key not in self.kept), len(one.keys))
        length = max(1, len(one.text) // LETTERS)
        saved = min(known * BLOCK_TOKENS, length - 1)  # the last token is always read
        self.saved += saved
        self.read += length - saved
        one.left = length - saved
        for key in reversed(one.keys):
            self.kept[key] = None
            self.kept.move_to_end(key)
        while len(self.kept) * BLOCK_TOKENS > self.room:
            self.kept.popitem(last=False)
        return one


def simulate(
    trace: list[Asked], policy: Balanced, constants: Constants, lanes: int, room: int
) -> dict[str, float]:
    """Replay a trace: prompt tokens saved and read, waiting for the first token, use of replicas."""
    replicas = [Simulated(lanes, room) for _ in policy.replicas]
    events: list[tuple[float, int, int, Any]] = []
    for i, one in enumerate(trace):
        heappush(events, (one.at, 1, i, one))
    stepping, end = [False] * len(replicas), 0.0
    while events:
        now, kind, place, one = heappop(events)
        if kind == 1:
            place = policy.choose(one.model, one.text)
            assert place is not None
            replicas[place].waiting.append(one)
            if stepping[place]:
                continue
        replica = replicas[place]
        if not (replica.waiting or replica.running):
            stepping[place] = False
            continue
        end, done = replica.step(now, constants)
        for _ in done:
            policy.done(place)
        stepping[place] = True
        heappush(events, (end, 0, place, None))
    waits = sorted(one.first - one.at for one in trace if one.first is not None)
    return {
        "saved": sum(r.saved for r in replicas), "read": sum(r.read for r in replicas),
        "median": statistics.median(waits), "late": waits[int(0.95 * (len(waits) - 1))],
        "busy": sum(r.busy for r in replicas) / (len(replicas) * max(end, 1e-9)),
    }  # fmt: skip


# --- traces -----------------------------------------------------------------------------------------


def rate_of(args: argparse.Namespace, constants: Constants) -> float:
    """Requests a second that keep replicas without a cache busy for a share of their time."""
    system, question, answer = (sum(pair) / 2 for pair in (args.system, args.question, args.answer))
    prompt = (system + question) * (1 + GOES_ON)  # conversations are longer
    each = prompt * constants.token + answer * (constants.lane + constants.call / LANES_AT_ONCE)
    return args.load * args.replicas / each


def drawn(args: argparse.Namespace, rate: float) -> Iterator[Asked]:
    """So many requests by chance, the same for the same seed; `rate` is theirs a second."""
    draw = random.Random(args.seed)
    weights = [1 / (rank + 1) ** args.zipf for rank in range(args.adapters)]
    systems: dict[int, str] = {}
    opened: deque[tuple[int, str]] = deque(maxlen=OPEN)
    at, span = 0.0, args.requests / rate / BURSTS
    for _ in range(args.requests):
        burst = BURST if at % span >= (1 - BURST_SHARE) * span else 1.0
        at += draw.expovariate(rate * burst)
        if opened and draw.random() < GOES_ON:
            who, before = opened[draw.randrange(len(opened))]
        else:
            who = draw.choices(range(args.adapters), weights)[0]
            before = systems.setdefault(who, _words(draw, draw.randint(*args.system)))
        text = before + _words(draw, draw.randint(*args.question))
        tokens = draw.randint(*args.answer)
        if len(text) // LETTERS < args.context:
            opened.append((who, text + _words(draw, tokens)))
        yield Asked(at=at, model=f"adapter{who}", text=text, tokens=tokens)


def _words(draw: random.Random, tokens: int) -> str:
    return f"{draw.getrandbits(4 * LETTERS * tokens):0{LETTERS * tokens}x}"


def read(path: Path) -> Iterator[Asked]:
    """The requests of a file."""
    for line in path.read_text("utf-8").splitlines():
        yield Asked(**json.loads(line))


# --- constants --------------------------------------------------------------------------------------


def measured(base: str) -> Constants:
    """What a pass, a token that is read and a lane that decodes take here; medians of five."""
    import torch

    from rung.models import load

    bank = load([], base=base).engine.bank

    def seconds(work: Callable[[], Any]) -> float:
        taken = []
        for _ in range(6):
            began = time.perf_counter()
            with torch.no_grad():
                work()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[1:])

    one, many = seconds(lambda: bank.dummy_pass(1)), seconds(lambda: bank.dummy_pass(CHUNK))
    token = max(many - one, 1e-9) / (CHUNK - 1)
    return Constants(max(one - token, 1e-9), token, token)


def main() -> int:
    args = arguments()
    constants = Constants(*args.constants) if args.constants else measured(args.base)
    print(f"machine    {report.machine()}")
    source = "as given" if args.constants else f"of {args.base}, measured here"
    print(f"constants  pass {1e3 * constants.call:.2f} ms, token read {1e3 * constants.token:.3f} ms, "
          f"lane {1e3 * constants.lane:.3f} ms ({source})")  # fmt: skip
    rate = rate_of(args, constants)
    arrivals = args.trace or f"{60 * rate:,.0f} requests a minute"
    print(f"trace      {arrivals}; {args.replicas} replicas, "
          f"{args.adapters:,} adapters, {args.room:,} tokens kept by each replica")  # fmt: skip
    saved = {}
    for name, policy in policies(args).items():
        trace = list(read(args.trace) if args.trace else drawn(args, rate))
        for one in trace:
            one.keys = blocks(one.model, one.text)
        found = simulate(trace, policy, constants, args.lanes, args.room)
        saved[name] = found["saved"]
        share = found["saved"] / max(found["saved"] + found["read"], 1)
        print(f"{name:12} {len(trace):,} requests; {found['saved']:,} prompt tokens not recomputed "
              f"({share:.0%}); first token {1e3 * found['median']:.0f} ms, "
              f"95th {1e3 * found['late']:.0f} ms; busy {found['busy']:.0%}", flush=True)  # fmt: skip
    return verdict(saved)


def policies(args: argparse.Namespace) -> dict[str, Balanced]:
    """What is compared, by its name."""
    return {
        "random": Random(args.replicas, args.seed), "least loaded": Balanced(args.replicas),
        "warm": Warm(args.replicas),
    }  # fmt: skip


def verdict(saved: Mapping[str, float]) -> int:
    """Print how many times as many tokens warm routing saved; the exit code."""
    ratio = saved["warm"] / max(saved["random"], 1)
    print(f"beside least loaded: {saved['warm'] / max(saved['least loaded'], 1):.2f}")
    print(f"RATIO warm_routing {ratio:.2f} (>= {LEAST})")
    return 0 if ratio >= LEAST else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate")
    pair = {"type": int, "nargs": 2, "metavar": ("FROM", "TO")}
    parser.add_argument("--trace", type=Path, help="requests to replay")
    parser.add_argument("--base", default=SCRATCH, help="whose step times are measured")
    parser.add_argument("--constants", type=float, nargs=3, metavar=("CALL", "TOKEN", "LANE"),
                        help="seconds, in place of measuring")  # fmt: skip
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--lanes", type=int, default=32, help="answers that a replica draws at once")
    parser.add_argument("--room", type=int, default=30_000, help="tokens that a replica keeps")
    parser.add_argument("--load", type=float, default=0.7, help="share of time that replicas are busy")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--zipf", type=float, default=1.0, help="how unevenly adapters are asked")
    parser.add_argument("--system", default=[200, 600], **pair, help="tokens of system prompts")
    parser.add_argument("--question", default=[10, 80], **pair)
    parser.add_argument("--answer", default=[16, 128], **pair)
    parser.add_argument("--context", type=int, default=1500, help="tokens of a conversation at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
