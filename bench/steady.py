"""Steady load: many clients that each ask, wait for the answer and ask again; memory by minute, p99.

    make steady                                     # 200 clients for ten minutes
    make steady ARGS="--clients 20 --minutes 1"

Every fourth request is a stream. Fails at an answer that is no 200, or where memory grows by more than
--growth megabytes between the medians of the second and the last third of the minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

import httpx
import psutil

from bench.soak import CHAT, Watch, own_server

LOOK = 1.0  # seconds between two looks at the memory


async def client(http: httpx.AsyncClient, models: list[str], seed: int, until: float) -> list[tuple]:
    """Ask until the end; returns (status, seconds) of each request."""
    seen: list[tuple] = []
    while time.monotonic() < until:
        turn = [{"role": "user", "content": f"Tell me of rung {seed * 31 + len(seen)}"}]
        model = models[(seed + len(seen)) % len(models)]
        body = {"model": model, "messages": turn, "max_tokens": 12, "seed": seed, "temperature": 1.0}
        began = time.monotonic()
        try:
            if len(seen) % 4 == 0:
                async with http.stream("POST", CHAT, json={**body, "stream": True}) as answer:
                    async for _ in answer.aiter_bytes():
                        pass
            else:
                answer = await http.post(CHAT, json=body)
            status: object = answer.status_code
        except httpx.HTTPError as fault:
            status = type(fault).__name__
        seen.append((status, time.monotonic() - began))
    return seen


async def load(url: str, models: list[str], watch: Watch, given: argparse.Namespace) -> list[tuple]:
    """All clients at once, with a look at the server's memory every second."""
    whole, began = given.minutes * 60, time.monotonic()
    limits = httpx.Limits(max_connections=given.clients, max_keepalive_connections=given.clients)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        asking = [
            asyncio.create_task(client(http, models, seed, began + whole))
            for seed in range(given.clients)
        ]
        minute = 0
        while (at := time.monotonic() - began) < whole:
            memory = watch.look(at)
            if at >= 60 * minute:
                print(f"minute {minute}: {memory:.0f} MB, files and threads {watch.held}", flush=True)
                minute += 1
            await asyncio.sleep(min(LOOK, max(0.05, whole - at)))
        return [one for seen in await asyncio.gather(*asking) for one in seen]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--growth", type=float, default=30.0, help="megabytes")
    given = parser.parse_args()
    with own_server() as (url, models, pid):
        watch = Watch(psutil.Process(pid))
        seen = asyncio.run(load(url, models, watch, given))
        growth = watch.growth(given.minutes * 60)
    bad = [status for status, _ in seen if status != 200]
    times = sorted(seconds for status, seconds in seen if status == 200)
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
    print(f"{len(seen):,} requests, {len(bad)} of them no 200: {sorted(set(map(str, bad)))}")
    print(f"p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s, memory {growth:+.1f} MB")
    print(f"RATIO steady_growth_mb {growth:.1f} steady_p99_s {cuts[98]:.3f}")
    return 1 if bad or growth > given.growth else 0


if __name__ == "__main__":
    sys.exit(main())
