"""Models joined in place of trained anew: what a projector and two towers learn of 1,412 drawings.

    make bench-combine                                       # minutes on two cores
    make bench-combine ARGS="--rows 60 --epochs 1"           # that it runs at all

Half of the names is learnt, the other half judges; drawings with one name are on one side. A projector
(EfficientNet-Lite0, SmolLM2-135M) must lower the loss of unseen drawings' names, against the same
language model without the picture and against itself with another drawing's picture, by more than the
interval. Towers (EfficientNet-Lite0, MiniLM) must name unseen drawings better than chance by more than
the interval. Exit status 1 where one does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import report
from bench.drawings import drawings, write

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench" / "drawings"
PARTS = ("projector", "towers")


def projector(rows: list[dict[str, Any]], folder: Path, args: argparse.Namespace) -> int:
    """Loss of unseen names with the picture, with another and without; 1 where it does not help."""
    import rung
    from rung.data import DataKnobs, load
    from rung.engine import ServedModel
    from rung.evals.reply_loss import change, reply_losses

    seen, unseen = (
        write([r for r in rows if r["seen"] is half], folder, f"{half}.jsonl") for half in (True, False)
    )
    began = time.perf_counter()
    made = rung.tune(
        "bench-seer", str(seen), base="smollm2-135m", method="projector", vision="efficientnet-lite0",
        assistant="{caption}", validation=0.05, test=0.0, epochs=args.epochs, batch_size=16,
        seconds=args.seconds, dtype="float32", picture_side=args.side, replace=True,
    )  # fmt: skip
    print(f"projector  trained in {time.perf_counter() - began:.0f} s on {made.metrics['steps']} steps")
    examples = list(load(DataKnobs(data=str(unseen), assistant="{caption}")).examples)[: args.judged]
    turned = examples[1:] + examples[:1]
    others = [_shown(e, o.messages[0]["pictures"]) for e, o in zip(examples, turned, strict=True)]
    bank, template = made.prepared.bank, made.prepared.template
    seer = ServedModel.of("seer", bank.add(made.adapter), template, made.adapter)
    bare = ServedModel.of("bare", -1, template)
    with_it = reply_losses(bank, seer, examples)
    failed = 0
    for name, model, asked in (
        ("no picture", bare, [_shown(e, ()) for e in examples]), ("another picture", seer, others),
    ):  # fmt: skip
        found = change(reply_losses(bank, model, asked), with_it)
        gap = f"{found.after - found.before:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        print(
            f"projector  loss {found.after:.3f} with the picture, {found.before:.3f} with {name}: "
            f"{gap}, {found.rows} unseen drawings"
        )
        failed |= not found.shown
    return failed


def towers(rows: list[dict[str, Any]], folder: Path, args: argparse.Namespace) -> int:
    """Naming unseen drawings among unseen names, and recall both ways; 1 where chance is as good."""
    import torch

    import rung
    from rung.data import DataKnobs, load
    from rung.evals.retrieval import recall
    from rung.methods.pictures.contrastive import Pairs

    seen, unseen = (
        write([r for r in rows if r["seen"] is half], folder, f"{half}.jsonl") for half in (True, False)
    )
    began = time.perf_counter()
    made = rung.tune(
        "bench-pair", str(seen), method="towers", vision="efficientnet-lite0", text="minilm",
        assistant="{caption}", validation=0.15, test=0.0, replace=True,
    )  # fmt: skip
    print(
        f"towers     learnt in {time.perf_counter() - began:.0f} s, {made.metrics['steps']:.0f} steps"
    )
    examples = list(load(DataKnobs(data=str(unseen), assistant="{caption}")).examples)
    pictures = [e.messages[0]["pictures"][0] for e in examples]
    captions = [e.messages[-1]["content"] for e in examples]
    names = sorted(set(captions))
    both = made.adapter.towers
    assert both is not None
    with torch.no_grad():
        shown, said, told = both.of_pictures(pictures), both.of_texts(captions), both.of_texts(names)
    named = torch.tensor([[float(c == n) for n in names] for c in captions])
    alike = Pairs.of(shown, said, captions, [str(p) for p in pictures]).alike
    failed = 0
    for what, found in (
        ("name of a picture", recall(shown, told, named)),
        ("text of a picture", recall(shown, said, alike)),
        ("picture of a text", recall(said, shown, alike)),
    ):
        for one in found:
            gap = f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}], by chance {one.chance:.4f}"
            print(f"towers     {what:18} recall@{one.k} {gap}, {one.n} unseen of {len(names)} names")
            failed |= one.low <= one.chance
    return failed


def _shown(example: Any, pictures: tuple[Any, ...]) -> Any:
    """An example that shows other pictures."""
    from dataclasses import replace

    first = {**example.messages[0], "pictures": pictures}
    return replace(example, messages=(first, *example.messages[1:]))


def main() -> int:
    args = arguments()
    folder = args.drawings or WORK
    rows = drawings(folder)
    if args.rows:
        rows = rows[:: max(1, len(rows) // args.rows)][: args.rows]
    print(f"machine    {report.machine()}")
    print(f"drawings   {len(rows)}, {sum(r['seen'] for r in rows)} of them learnt")
    failed = 0
    from rung import home

    cache = home.folder("cache")
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as temporary:
        (Path(temporary) / "cache").symlink_to(cache, target_is_directory=True)
        os.environ["RUNG_HOME"] = temporary
        for part in args.parts:
            failed |= {"projector": projector, "towers": towers}[part](rows, folder, args)
    return failed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-combine")
    parser.add_argument("--drawings", type=Path, help="a folder that holds them already")
    parser.add_argument("--rows", type=int, help="so many drawings at most")
    parser.add_argument("--epochs", type=float, default=5.0, help="of the projector's training")
    parser.add_argument("--seconds", type=float, help="of the projector's training at most")
    parser.add_argument("--side", type=int, default=4, help="tokens on each side of a picture")
    parser.add_argument("--judged", type=int, help="unseen drawings that a projector is judged by")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
