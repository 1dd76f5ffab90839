"""How fast this machine multiplies matrices, and how much arithmetic a training step must do.

The ceiling is the best float32 matrix product at the shapes of the base. The arithmetic counted is
what the examples need when each is computed once and alone: nothing for padding, nothing for
recomputed activations. So a share of the ceiling compares sides that waste differently, and a
trie, which computes shared text once, may exceed 100%.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

FORMULA = (
    "FLOP = tokens x (4 P + 6 A) + supervised x 4 V d + 12 L H h sum(n^2) / 2; P frozen weights in "
    "linear layers (forward 2, backward to the input 2), A adapter weights in linear layers "
    "(forward 2, backward 4), V d the output layer, L layers of H heads of size h over examples "
    "of n tokens (scores and values: forward 2 x 2, backward twice that, half of it masked)"
)


def matmul_ceiling(base: str, seconds: float = 0.4) -> float:
    """FLOP/s of the fastest float32 product x (m, k) @ w (k, n) among the base's shapes."""
    import torch

    config = _config(base)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    best = 0.0
    for m in (1024, 2048, 4096):
        for k, n in ((hidden, hidden), (hidden, inner), (inner, hidden), (hidden, 2 * inner)):
            x, w = torch.randn(m, k), torch.randn(k, n)
            torch.mm(x, w)
            # The best of many short ones: other processes only ever make it slower.
            until = time.perf_counter() + seconds
            while (start := time.perf_counter()) < until:
                torch.mm(x, w)
                best = max(best, 2 * m * k * n / (time.perf_counter() - start))
    return best


def flop(job: dict[str, Any]) -> float:
    """The arithmetic of all steps of a job, by FORMULA."""
    config = _config(job["base"])
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads)
    inner = config["intermediate_size"]
    shapes = [
        (hidden, heads * size), (hidden, keys * size), (hidden, keys * size),
        (heads * size, hidden), (hidden, inner), (hidden, inner), (inner, hidden),
    ]  # fmt: skip
    frozen = layers * sum(a * b for a, b in shapes)
    rank = job["method_settings"].get("r", 0)
    adapter = layers * sum(rank * (a + b) for a, b in shapes)
    rows = [job["examples"][i] for batch in job["batches"] for i in batch]
    tokens = sum(len(row["ids"]) for row in rows)
    supervised = sum(sum(row["supervised"]) for row in rows)
    squares = sum(len(row["ids"]) ** 2 for row in rows)
    return (
        tokens * (4.0 * frozen + 6.0 * adapter)
        + supervised * 4.0 * config["vocab_size"] * hidden
        + 12.0 * layers * heads * size * squares / 2
    )


def _config(base: str) -> dict[str, Any]:
    return json.loads((Path(base) / "config.json").read_text())
