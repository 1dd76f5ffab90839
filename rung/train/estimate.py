"""What a run will need, before it starts: precision, memory, micro-batches, time.

Formulas, for L layers of width d with feed-forward width f, P parameters in projections:
a token kept for the backward pass holds about L (10 d + 4 f) values, or L d + 10 d + 4 f where layers
are computed again; forward and the gradient of the activations cost 2 P operations each, the head as
much for each supervised token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from rung.bases.loaded import check_device
from rung.forward.bank import Bank
from rung.objectives import Row
from rung.train.knobs import TrainKnobs
from rung.train.optim import moment_bytes

# A larger micro-batch gains no speed: a CPU is at its best with fewer tokens than a GPU, and what they
# keep until their backward pass is most of what training takes.
MAX_MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 8192, "mps": 8192}
FLOAT32 = 4  # bytes
LOOK, PRODUCT = 192, 768  # rows and columns of the products that speed is measured by
SHARE = 0.6  # of the memory that is free, since others use it too


@dataclass(frozen=True)
class Estimate:
    """Of one run. Seconds are for all epochs and a guess; bytes are the peak.

    Attributes:
        recomputes: whether activations must be, or shall be, computed again in backward passes.
    """

    seconds: float
    bytes: int
    max_tokens: int
    recomputes: bool = False


def device(name: str) -> str:
    """The device that `auto` means here. Raises ConfigError for one that is not there."""
    if name != "auto":
        check_device(name)
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def dtype(name: str, where: str) -> str:
    """The precision that `auto` means here: the fastest by a short measurement, float32 in doubt."""
    return _fastest(where) if name == "auto" else name


@cache
def _fastest(where: str) -> str:
    """The precision whose products are fastest on a device, measured once in a process.

    A bfloat16 product must beat float32 by a half to be taken, since all else gains less. A processor
    without instructions for bfloat16 takes seconds for a product of the usual size: a small one comes
    first, and tells it. One thread computes: several wait for each other where others use the cores.
    """
    with limited_threads(1):
        for size, least in ((LOOK, 0.5), (PRODUCT, 1.5)):
            if speed("bfloat16", where, size) < least * speed("float32", where, size):
                return "float32"
    return "bfloat16"


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Compute with so many threads of the processor, and with as many as before behind it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def speed(kind: str, where: str, size: int = PRODUCT) -> float:
    """Operations per second of a matrix product in a precision; the best of three."""
    a = torch.rand(size, size, device=where).to(getattr(torch, kind))
    b = torch.rand(size, size, device=where).to(getattr(torch, kind))
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        float((a @ b)[0, 0])  # reading a value waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def free_bytes(where: str) -> int:
    """Memory that is free on the device."""
    if where.startswith("cuda"):
        return torch.cuda.mem_get_info(where)[0]
    import psutil

    return psutil.virtual_memory().available


def token_bytes(bank: Bank, recomputes: bool = False) -> int:
    """What a token of a micro-batch holds until its backward pass."""
    c: Any = bank.config
    width = c.hidden_size
    inner = getattr(c, "intermediate_size", None) or getattr(c, "ffn_dim", None) or 4 * width
    layer = 10 * width + 4 * inner
    values = c.num_hidden_layers * width + layer if recomputes else c.num_hidden_layers * layer
    return values * bank.dtype.itemsize


def trained_bytes(knobs: TrainKnobs) -> float:
    """What each trained parameter takes: itself, its gradient, and what the optimiser keeps of it."""
    return 2 * FLOAT32 + moment_bytes(knobs)


def most_tokens(bank: Bank) -> int:
    """Tokens of a micro-batch beyond which there is no more speed to gain."""
    return MAX_MICRO_BATCH_TOKENS[bank.device.type]


def of(
    bank: Bank,
    adapter_size: int,
    rows: Sequence[Row],
    knobs: TrainKnobs,
    resident: int,
    processes: int = 1,
) -> Estimate:
    """Estimate a run on rows (at least one).

    Args:
        adapter_size: trained parameters. resident: bytes that the process holds already.
        processes: that train together on this machine, and share its memory where that is not a GPU's.
    """
    where = str(bank.device)
    optimizer = int(adapter_size * trained_bytes(knobs))
    free = free_bytes(where) // (1 if where.startswith("cuda") else processes)
    lengths = sorted((r.tokens for r in rows), reverse=True)
    recomputes = knobs.recompute == "on" and bank.carries_trie
    if knobs.recompute == "auto" and bank.carries_trie:
        recomputes = (free - optimizer) * SHARE < lengths[0] * token_bytes(bank)
    per_token = token_bytes(bank, recomputes)
    room = int((free - optimizer) * SHARE / per_token)
    budget = knobs.max_tokens or max(64, min(most_tokens(bank), room))
    micro = min(budget, max(sum(lengths[: knobs.batch_size]), lengths[0]))
    tokens = sum(lengths)
    supervised = sum(r.supervised for r in rows)
    every = sum(p.numel() for p in bank.model.parameters())
    table = bank.model.get_input_embeddings().weight.numel()
    head = bank.model.get_output_embeddings().weight.numel()
    work = 4 * (tokens * (every - table) + supervised * head)
    rate = 0.6 * speed(str(bank.dtype).removeprefix("torch."), where)
    return Estimate(
        seconds=knobs.epochs * work / rate,
        bytes=resident + optimizer + micro * per_token,
        max_tokens=budget,
        recomputes=recomputes,
    )
