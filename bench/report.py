"""What a comparison found, in words, and its place in bench/RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
HEADER = (
    "| comparison | side | tokens/s | final loss | peak GB | share of ceiling | ratio |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass
class Outcome:
    """One comparison: the job, its sides (the peer first) and the arithmetic of all its steps."""

    name: str
    what: str
    job: dict[str, Any]
    sides: list[Any]  # of bench.train.Side
    flop: float
    tolerance: float

    @property
    def tokens(self) -> int:
        """Tokens of all examples trained on, without padding."""
        lengths = [len(example["ids"]) for example in self.job["examples"]]
        return sum(lengths[i] for batch in self.job["batches"] for i in batch)

    @property
    def amount(self) -> str:
        batches = self.job["batches"]
        rows = sum(map(len, batches))
        kept = sum(sum(self.job["examples"][i]["supervised"]) for b in batches for i in b)
        return (
            f"{len(batches)} steps of {len(batches[0])} examples, {self.tokens / rows:.0f} tokens "
            f"in the mean, {kept / self.tokens:.0%} supervised"
        )

    @property
    def ratio(self) -> float | None:
        """Rung's tokens/s over the peer's, when both ran."""
        if len(self.sides) < 2:
            return None
        peer, ours = self.sides
        return ours.speed(self.tokens) / peer.speed(self.tokens)

    @property
    def equal(self) -> bool:
        """Whether both sides ended at the same loss."""
        losses = [side.loss for side in self.sides]
        return max(losses) - min(losses) <= self.tolerance * min(losses)

    def share(self, side: Any, ceiling: float) -> float:
        """Useful arithmetic per second over the machine's ceiling."""
        return self.flop / self.tokens * side.speed(self.tokens) / ceiling

    def line(self, side: Any, ceiling: float) -> str:
        speeds = [self.tokens / r["seconds"] for r in side.results]
        spread = f" ({min(speeds):.0f} to {max(speeds):.0f})" if len(speeds) > 1 else ""
        computed = side.results[0].get("computed_tokens", self.tokens) / self.tokens
        shared = f", computing {computed:.0%} of the tokens" if computed != 1 else ""
        return (
            f"{side.speed(self.tokens):6.1f} tokens/s{spread}, final loss {side.loss:.4f}, "
            f"peak {side.peak:.2f} GB, {self.share(side, ceiling):.0%} of the ceiling{shared}"
        )


def machine() -> str:
    """The machine in words: processor, cores, memory, versions."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
        f"{_flags()}, {memory:.0f} GB memory, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def _flags() -> str:
    """The instructions that decide the speed of matrix products, where the kernel lists them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    line = next((x for x in text.splitlines() if x.startswith("flags")), "")
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
    found = [flag for flag in wanted if flag in line.split()]
    return f" ({' '.join(found)})" if found else ""


def record(outcomes: list[Outcome], ceiling: float, allocator: str) -> None:
    """Append a table with the machine it was measured on."""
    today = datetime.date.today().isoformat()
    lines = [f"\n## Training, {today}\n"]
    lines.append(
        f"{machine()}; allocator {allocator}; "
        f"matrix product ceiling {ceiling / 1e9:.0f} GFLOP/s in float32.\n"
    )
    versions = {
        name: version
        for outcome in outcomes
        for side in outcome.sides
        for name, version in side.results[0]["versions"].items()
    }
    lines.append(", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".\n")
    lines.append(HEADER)
    for outcome in outcomes:
        for i, side in enumerate(outcome.sides):
            ratio = f"{outcome.ratio:.2f}" if i and outcome.ratio is not None else ""
            cells = [
                "" if i else outcome.name,
                side.name,
                f"{side.speed(outcome.tokens):.1f}",
                f"{side.loss:.4f}",
                f"{side.peak:.2f}",
                f"{outcome.share(side, ceiling):.0%}",
                ratio,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- {outcome.name}: {outcome.what}; {outcome.amount}" for outcome in outcomes]
    with RESULTS.open("a") as out:
        out.write("\n".join(lines) + "\n")
