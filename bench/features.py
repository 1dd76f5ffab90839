"""Training the last layers from kept states beside transformers' Trainer, in one run on one machine.

    make bench-features
    make bench-features ARGS="--rows 64 --repeats 1"
    make bench-features ARGS="--record"                 # adds the figures to bench/RESULTS.md

The last two layers and the final norm of the same base, five epochs over headlines behind one system
prompt. Both sides get the same token ids in the same batches, float32, the same optimiser and as many
threads as they choose; the loss counts the supervised tokens alone (labels of -100 elsewhere). The
peer freezes what is not trained and keeps the Trainer's other defaults. Rung computes what enters the
layers once, writes it to an empty cache and goes on from there: that is part of its time. They take
turns, each run in a process of its own; the medians count. One ruler scores both; final losses that
differ by over 1% fail.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import report
from bench.examples import BATCH, OPTIMISER, sarcasm
from bench.train import LOSS_TOLERANCE, PEER_PYTHON, PEERS, ROOT, Side, load_base, once, score

LAYERS, EPOCHS, LEARNING_RATE = 2, 5, 2e-5
HEADER = (
    "| comparison | side | seconds | tokens/s | final loss | peak GB | ratio |\n"
    "|---|---|---|---|---|---|---|"
)


def main() -> int:
    args = arguments()
    base, template = load_base(args.base)
    folder = ROOT / "build" / "bench" / "last_layers"
    folder.mkdir(parents=True, exist_ok=True)
    path = job(base, template, folder, args.rows)
    content = json.loads(path.read_text())
    peer = Side(
        "transformers", [str(PEER_PYTHON), str(PEERS / "train_last_layers.py")],
        folder / "trained-peer", [],
    )  # fmt: skip
    ours = Side("rung", [sys.executable, "-m", "bench.features_rung"], folder / "trained-rung", [])
    print(f"machine    {report.machine()}")
    for repeat in range(args.repeats):
        # Who goes first changes, so that neither always meets the warmer machine.
        for side in (peer, ours) if repeat % 2 == 0 else (ours, peer):
            with tempfile.TemporaryDirectory(prefix="rung-bench-") as home:
                os.environ["RUNG_HOME"] = home  # nothing that an earlier run kept
                side.results.append(once(side, content, folder))
    score([peer, ours], path, "evaluate_weights.py")
    return show(peer, ours, content, args.record)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.features", description="Rung beside the Trainer.")
    parser.add_argument("--rows", type=int, default=192, help="training rows")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side, taking turns")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


def job(base: str, template: Any, folder: Path, count: int) -> Path:
    """Write what both sides are handed; bench/train_rung.py says what most fields mean.

    `layers` is how many of the last ones are trained, together with the final norm.
    """
    import random

    rows = sarcasm(template, count)
    draw, order = random.Random(0), list(range(len(rows)))
    steps = []
    for _ in range(EPOCHS):
        draw.shuffle(order)
        steps += [order[i : i + BATCH] for i in range(0, len(order) - BATCH + 1, BATCH)]
    content = {
        "name": "last_layers",
        "method": "last_layers",
        "base": base,
        "layers": LAYERS,
        "out": str(folder / "trained"),
        "examples": [{"ids": list(r.ids), "supervised": list(r.supervised)} for r in rows],
        "batches": steps,
        "learning_rate": LEARNING_RATE,
        **OPTIMISER,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(content))
    return path


def show(peer: Side, ours: Side, content: dict[str, Any], record: bool) -> int:
    """The figures; the last line is for scripts."""
    lengths = [len(example["ids"]) for example in content["examples"]]
    tokens = sum(lengths[i] for batch in content["batches"] for i in batch)
    what = (
        f"{len(content['examples'])} headlines of {statistics.mean(lengths):.0f} tokens, {EPOCHS} "
        f"epochs in batches of {BATCH}, last {LAYERS} layers and final norm, float32"
    )
    print(f"last_layers: {what}")
    ratio = seconds(peer) / seconds(ours)
    lines = []
    for side in (peer, ours):
        print(
            f"  {side.name:<12} {seconds(side):7.1f} s, {tokens / seconds(side):7.1f} tokens/s, "
            f"final loss {side.loss:.4f}, peak {side.peak:.2f} GB"
        )
        settings = ", ".join(f"{k} {v}" for k, v in side.results[0]["settings"].items())
        print(f"               {settings}")
        cells = [
            "last_layers" if side is peer else "", side.name, f"{seconds(side):.1f}",
            f"{tokens / seconds(side):.1f}", f"{side.loss:.4f}", f"{side.peak:.2f}",
            f"{ratio:.2f}" if side is ours else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if record:
        today = datetime.date.today().isoformat()
        text = "\n".join([f"\n## Last layers, {today}\n", f"{report.machine()}.\n", HEADER, *lines])
        with report.RESULTS.open("a") as out:
            out.write(f"{text}\n\n- last_layers: {what}\n")
    equal = abs(peer.loss - ours.loss) <= LOSS_TOLERANCE * min(peer.loss, ours.loss)
    if not equal:
        print("  FAILED: the final losses differ by more than 1%")
    print(f"RATIO last_layers {ratio:.2f}", flush=True)
    return 0 if equal else 1


def seconds(side: Side) -> float:
    """The median of a side's repeats."""
    return statistics.median(r["seconds"] for r in side.results)


if __name__ == "__main__":
    sys.exit(main())
