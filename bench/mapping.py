"""Mapping: rungs against edit distance on real names, and time and memory of 10,000 x 10,000 records.

The names are those of the worked example (examples/mapping_names.py): resource types of AWS that the
committed pairs know against all resources of Google Cloud. Every known record is tested once, in five
folds whose parts share nothing; thresholds are chosen on each fold's validation. For the size,
operations of AWS (wheel of botocore) stand against methods of Google's APIs, by the encoder, in a
process of its own.

    make bench-map                          # all of it; about 10 minutes on two quiet cores
    make bench-map ARGS="--records 500"     # a try
    make bench-map ARGS="--reranker smollm2-135m"
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from examples import mapping_names
from rung.bases import wheel
from rung.mapping.climb import Tried, climb
from rung.mapping.knobs import MapKnobs
from rung.mapping.measure import Figures, compare
from rung.mapping.problem import FOLDS, Problem, problem_of
from rung.mapping.records import Record, Table, read_pairs, read_table
from rung.mapping.table import rows_of

BOTOCORE = "botocore==1.44.8"
FLOOR = "edit_distance"
RECORDS = 10_000  # of each side
MAX_MINUTES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=RECORDS, help="records of each side")
    parser.add_argument("--reranker", help="a base or model that chooses among candidates")
    parser.add_argument("--folds", type=int, default=FOLDS, help="of the five, how many are measured")
    parser.add_argument("--size", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.size:
        print(json.dumps(size(asked.records)))
        return
    quality(asked.folds, asked.reranker)
    told = subprocess.run(
        [sys.executable, "-m", "bench.mapping", "--size", "--records", str(asked.records)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found = json.loads(told.stdout.splitlines()[-1])
    peak, before = found["peak_bytes"] / 2**30, found["before_bytes"] / 2**30
    print(
        f"\n{found['left']:,} x {found['right']:,} records by the encoder: {found['seconds']:.0f} s, "
        f"peak memory {peak:.2f} GiB, {before:.2f} GiB of it before the records; "
        f"{found['mapped']:,} mapped one-to-one"
    )
    share = found["seconds"] / 60 / MAX_MINUTES
    print(f"RATIO map_share_of_{MAX_MINUTES}_minutes {share:.2f}   (at most 1 wanted)")


def quality(folds: int, reranker: str | None) -> None:
    """Print figures of every rung on all known records, and what each has over the floor."""
    knobs = MapKnobs(validation=0.3, test=0.2, reranker=reranker)
    with tempfile.TemporaryDirectory() as place:
        mapping_names.main(Path(place), known=True)
        left = read_table(str(Path(place) / "aws.csv"), None, None, None)
        right = read_table(str(Path(place) / "google.csv"), None, None, None)
    known = read_pairs([str(mapping_names.PAIRS)], left, right)
    alone = sum(not found for found in known.values())
    print(
        f"{len(left.records)} resource types of AWS, {alone} of them without a partner, against "
        f"{len(right.records)} resources of Google Cloud"
    )
    figures: dict[str, list[Figures]] = {}
    seconds: dict[str, float] = {}
    first: Problem | None = None
    for fold in range(folds):
        problem = problem_of(left, right, known, knobs, fold)
        if first is None:
            first = problem
            problem.chooser = chooser(reranker) if reranker else None
        problem.vectors, problem.chooser = first.vectors, first.chooser
        for one in climb(problem).tried:
            if not one.reason:
                figures.setdefault(one.name, []).append(tested(problem, one))
                seconds[one.name] = seconds.get(one.name, 0.0) + one.seconds
    table({name: Figures.pooled(found) for name, found in figures.items()}, seconds)


def chooser(name: str):
    """A reranker in memory."""
    from rung.mapping.chooser import chooser_of
    from rung.models import load_engine

    engine = load_engine([name])
    return chooser_of(engine.bank, engine.model(name))


def tested(problem: Problem, one: Tried) -> Figures:
    """A rung's figures on the fold's test part."""
    assert problem.parts is not None
    rows = problem.parts.test
    return Figures.of(one.answers(rows, one.threshold), problem.gold(rows))


def table(pooled: dict[str, Figures], seconds: dict[str, float]) -> None:
    metrics = ("f1", "precision", "recall", "accuracy")
    print(f"\n| rung | {' | '.join(metrics)} | seconds of all folds | F1 against {FLOOR} |")
    print("|---|" + "---|" * (len(metrics) + 2))
    for name, found in pooled.items():
        cells = []
        for metric in metrics:
            low, high = found.interval(metric)
            cells.append(f"{found.value(metric):.3f} [{low:.3f}, {high:.3f}]")
        against = "" if name == FLOOR else compare(pooled[FLOOR], found, "f1").says
        print(f"| {name} | {' | '.join(cells)} | {seconds[name]:.1f} | {against} |")


def size(count: int) -> dict[str, float]:
    """Map operations of AWS to methods of Google's APIs by the encoder -> seconds and bytes."""
    left = Table("aws operations", tuple(unique(operations(), count)))
    right = Table("google methods", tuple(unique(methods(), count)))
    before = peak_bytes()
    started = time.monotonic()
    rows = rows_of(climb(problem_of(left, right, {}, MapKnobs(only=["encoder"]))))
    taken = time.monotonic() - started
    right_ids = [row.right for row in rows if row.right]
    assert len(set(right_ids)) == len(right_ids), "the assignment is not one-to-one"
    return {
        "left": len(left.records), "right": len(right.records), "seconds": taken,
        "peak_bytes": peak_bytes(), "before_bytes": before, "mapped": len(right_ids),
    }  # fmt: skip


def unique(names: Iterator[str], count: int) -> Iterator[Record]:
    """The first names, each once."""
    seen: set[str] = set()
    for name in names:
        if len(seen) == count:
            return
        if name not in seen:
            seen.add(name)
            yield Record(name, name)


def operations() -> Iterator[str]:
    """Operations of AWS's services, such as `s3.CreateBucket`."""
    with (
        tempfile.TemporaryDirectory() as place,
        zipfile.ZipFile(wheel.download(BOTOCORE, Path(place))) as opened,
    ):
        for name in sorted(opened.namelist()):
            if name.endswith("service-2.json.gz"):
                service = name.split("/")[2]
                found = json.loads(gzip.decompress(opened.read(name)))
                yield from (f"{service}.{operation}" for operation in sorted(found["operations"]))


def methods() -> Iterator[str]:
    """Methods of Google's APIs, such as `storage.buckets.insert`."""
    for name, document in mapping_names.members(mapping_names.GOOGLE, mapping_names.DOCUMENTS):
        api = name.partition(".")[0]
        for path, resource_ in mapping_names.walk(document):
            kept = ".".join(p for p in path if p not in mapping_names.NOT_THINGS)
            yield from (f"{api}.{kept}.{method}" for method in sorted(resource_["methods"]))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
