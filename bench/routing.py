"""Routing over real replicas: prompt tokens not recomputed, warm-adapter routing beside random.

    make bench-routing
    make bench-routing ARGS="--replicas 4 --clients 64 --turns 6"

Each client brings a text of its own, asks about it in several turns, and goes on with the next text;
every conversation is with one of the adapters, whose system prompt it shares. Under each policy fresh
replicas of `rung serve` answer the same conversations behind the router, and the counts are the
replicas' own (`usage.prompt_tokens_details.cached_tokens`). `--document 0 0` leaves the texts away:
what is left in common then is in every replica soon, and routing has little to save. Seconds are no
measure of routing where replicas share cores. `make bench-simulate` has the larger numbers of replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx

from bench import report
from bench.simulate import policies, verdict
from rung.server.replicas.children import Child, command, environment
from rung.server.replicas.policy import Balanced
from rung.server.replicas.router import Router, application

CHAT = "/v1/chat/completions"
MAX_BODY = 1 << 20


@asynccontextmanager
async def replicas(
    policy: Balanced, names: Sequence[str], memory: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Fresh replicas behind a router with this policy: a client of it."""
    count = len(policy.replicas)
    router = Router(count, MAX_BODY)
    router.policy = policy
    for place in range(count):
        policy.lost(place)  # until it answers
    given = {"memory": memory, "device": "cpu", "page": False}
    children = [
        Child(command(names, given, place), environment(count), partial(router.came, place),
              partial(router.went, place))
        for place in range(count)
    ]  # fmt: skip
    try:
        await asyncio.gather(*(child.start() for child in children))
        over = httpx.ASGITransport(application(router))
        async with httpx.AsyncClient(transport=over, base_url="http://router", timeout=300) as http:
            yield http
        await asyncio.gather(*(child.stop() for child in children))
    finally:
        for child in children:
            child.kill()
        await router.client.aclose()


def words(draw: random.Random, between: Sequence[int]) -> str:
    """So many syllables."""
    return " ".join(draw.choice(("ha", "ho", "hi", "hu")) for _ in range(draw.randint(*between)))


async def client(
    http: httpx.AsyncClient, names: Sequence[str], seed: int, args: argparse.Namespace
) -> tuple[int, int]:
    """Hold the conversations of one client: prompt tokens, and those that were not recomputed."""
    draw, asked, saved = random.Random(seed), 0, 0
    for _ in range(args.conversations):
        who = draw.randrange(len(names))
        system = words(random.Random(-1 - who), args.system)
        said = [{"role": "system", "content": system}]
        document = words(draw, args.document)
        for turn in range(args.turns):
            question = words(draw, args.question)
            content = f"{document} {question}" if turn == 0 else question
            said.append({"role": "user", "content": content})
            body = {"model": names[who], "messages": said, "max_tokens": args.answer, "temperature": 0}
            answered = await http.post(CHAT, json=body)
            answered.raise_for_status()
            found = answered.json()
            said.append(found["choices"][0]["message"])
            asked += found["usage"]["prompt_tokens"]
            saved += found["usage"]["prompt_tokens_details"]["cached_tokens"]
    return asked, saved


async def load(
    policy: Balanced, names: Sequence[str], args: argparse.Namespace
) -> tuple[int, int, float]:
    """All clients under one policy: prompt tokens, those not recomputed, seconds."""
    async with replicas(policy, names, args.memory) as http:
        began = time.perf_counter()
        clients = (client(http, names, args.seed + i, args) for i in range(args.clients))
        counts = await asyncio.gather(*clients)
        return *map(sum, zip(*counts, strict=True)), time.perf_counter() - began


def main() -> int:
    args = arguments()
    print(f"machine    {report.machine()}")
    print(f"load       {args.clients} clients, {args.conversations} conversations each of {args.turns} "
          f"turns, {args.adapters} adapters, {args.replicas} replicas of {args.memory}")  # fmt: skip
    saved = {}
    with tempfile.TemporaryDirectory(prefix="rung-routing-") as folder:
        os.environ["RUNG_HOME"] = folder
        from tests.server.shop import base_folder
        from tests.test_models import keep

        base = base_folder(Path(folder) / "tiny", max_position_embeddings=8192)
        names = [f"coach{i}" for i in range(args.adapters)]
        for name in names:
            keep(name, "lora", base)
        for title, policy in policies(args).items():
            asked, saved[title], seconds = asyncio.run(load(policy, names, args))
            print(f"{title:12} {asked:,} prompt tokens, {saved[title]:,} not recomputed "
                  f"({saved[title] / asked:.0%}), {seconds:.1f} s", flush=True)  # fmt: skip
    return verdict(saved)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.routing")
    pair = {"type": int, "nargs": 2, "metavar": ("FROM", "TO")}
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--conversations", type=int, default=3, help="of each client, one by one")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--memory", default="256MB", help="keys and values that a replica keeps")
    parser.add_argument("--system", default=[20, 60], **pair, help="words of system prompts")
    parser.add_argument("--document", default=[150, 300], **pair, help="words of a client's text")
    parser.add_argument("--question", default=[5, 15], **pair)
    parser.add_argument("--answer", type=int, default=16, help="tokens at most")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
