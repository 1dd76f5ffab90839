"""Questions of documents: how many are found again, and a tuned model beside one that retrieves.

    make bench-documents                                # 30 pages, 90 rows; about half an hour
    make bench-documents ARGS="--examples 20"           # a try
    make bench-documents ARGS="--pages FOLDER"          # documents of your own

The pages are a web framework's handbook, fetched from an npm package. `rung make` writes questions with
the base as teacher, tunes a model on them, makes one that answers from passages, and measures both and
the base on held-out rows. Of all rows, recall@k says whether the passage that a question was written
from is among the first k: by shared words, by which questions were chosen, so that its recall at 3 is 1
by construction; by a sentence encoder's vectors, which had no part in that; and by both. The share of
drafts that were refused since other passages fit them better is what the choice took away. It fails
where recall@3 by words, rag's own way, is below the target.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bench import npm_package, report

WORK = Path(__file__).resolve().parent.parent / "build" / "bench" / "documents"
PACKAGE = "fastify@5.6.1"
PAGES, LEFT_OUT = 30, {"Index.md", "Ecosystem.md"}  # the latter are lists of links
DESCRIPTION = "Answers questions of developers about the Fastify web framework."
RETRIEVAL, TARGET = "bm25", 0.8  # what rag uses unless told; its recall@3
DEPTHS = (1, 3, 5)


def pages(folder: Path) -> Path:
    """The first pages of the handbook in the order of their names."""
    return npm_package.kept(PACKAGE, folder, _pages, "--pages")


def _pages(archive: tarfile.TarFile, made: Path) -> None:
    found = {
        m.name: m for m in archive.getmembers() if m.isfile() and m.name.startswith("package/docs/")
    }
    names = [n for n in sorted(found) if n.endswith(".md") and PurePosixPath(n).name not in LEFT_OUT]
    for name in names[:PAGES]:
        data = archive.extractfile(found[name])
        assert data is not None
        (made / PurePosixPath(name).name).write_bytes(data.read())


def made(folder: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run `rung make` in a home of its own; what it found."""
    command = [
        sys.executable, "-m", "rung", "make", "guide", DESCRIPTION, "--documents", str(folder),
        "--teacher", args.teacher, "--base", args.teacher, "--examples", str(args.examples),
        "--out", str(out), "--replace", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "RUNG_HOME": str(WORK / "home")}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"rung make ended with {done.returncode}")
    return json.loads(done.stdout)


def recalls(folder: Path, rows: Path) -> Mapping[str, Any]:
    """Quality of retrieval by mode, over all rows."""
    from rung.bases import encoder
    from rung.data import DataKnobs, load
    from rung.data.retrieval import Index, cut, measure, read_folder
    from rung.types import last_question

    model = encoder.load("minilm")
    index = Index.of(cut(read_folder(folder)), lambda texts: model.encode(texts).numpy())
    examples = load(DataKnobs(data=str(rows), gold="{provenance[gold]}"), None).examples
    return {
        mode: measure(index, examples, mode, lambda e: last_question(e.messages))
        for mode in ("bm25", "vectors", "hybrid")
    }


def main() -> int:
    args = arguments()
    WORK.mkdir(parents=True, exist_ok=True)
    folder = args.pages or pages(WORK / "pages")
    print(f"machine    {report.machine()}", flush=True)
    began = time.perf_counter()
    found = made(folder, WORK / "rows.jsonl", args)
    print(f"rung make  {time.perf_counter() - began:.0f} s, what an earlier try had written kept")
    data, change = found["data"], found["change"]
    refused = data["refused"]
    print(f"rows       {data['rows']} kept of {data['rows'] + sum(refused.values())} drafts")
    for why, count in sorted(refused.items(), key=lambda one: -one[1]):
        print(f"refused    {count:4} {why}")
    print(
        f"loss       {change['before']:.3f} -> {change['after']:.3f} on {change['rows']} held-out "
        f"rows, 95% interval of the change {change['low']:+.3f} to {change['high']:+.3f}"
    )
    print("\n| model | figure | interval |\n|---|---|---|")
    for m in found["beside"]["models"]:
        print(f"| {m['name']} | {m['metric']} {m['value']:.3f} | [{m['low']:.3f}, {m['high']:.3f}] |")
    print("\n| retrieval | " + " | ".join(f"recall@{k}" for k in DEPTHS) + " | MRR |")
    print("|---|" + "---|" * (len(DEPTHS) + 1))
    quality = recalls(folder, WORK / "rows.jsonl")
    for mode, one in quality.items():
        cells = [f"{one.recall[k]:.3f}" for k in DEPTHS]
        print(f"| {mode} | {' | '.join(cells)} | {one.mrr:.3f} |")
    found_again = quality[RETRIEVAL].recall[3]
    print(f"RATIO recall_at_3 {found_again:.2f} ({TARGET} wanted)")
    return int(found_again < TARGET)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.documents", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=90)
    parser.add_argument("--teacher", default="smollm2-135m")
    parser.add_argument("--pages", type=Path, help="a folder of documents in place of the package's")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
