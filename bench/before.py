"""Rung beside another checkout of Rung, such as the build before a change, in one run on one machine.

    git worktree add ../before COMMIT
    make bench-before ARGS="../before"
    make bench-before ARGS="../before --only train_lora --repeats 5"
    make bench-before ARGS="../before --record"          # adds the figures to bench/RESULTS.md

Both sides run the same jobs, by this environment's packages, each in a process of its own with its
checkout first on the path; they take turns, and the medians count. A ratio is this checkout's speed
over the other one's: training in tokens per second, the last layers in tokens, features of frozen
layers in rows (all at once, and one at a time), evaluation in items, serving in tokens per second with
one client and with many, starts of `rung chat -p` from the command to the first token, in a home that
has asked the base before. The run fails where a ratio is below 0.97.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import report
from bench.examples import COMPARISONS, job
from bench.features import job as last_layers_job
from bench.train import ROOT, load_base

FOLDER = ROOT / "build" / "bench" / "before"
LEAST = 0.97  # of the other checkout's speed
CLIENTS = (1, 32)
ROW_TOKENS, ASKED = 50, 20  # of a row whose features are read; rows that are asked one at a time


@dataclass
class Measurement:
    """One thing that both checkouts do.

    Attributes:
        prepare: writes the job -> its file and the amount of work, in whatever is counted.
        measure: runs a checkout on it -> seconds of each timing by its name.
    """

    name: str
    prepare: Callable[[argparse.Namespace], tuple[Path, float]]
    measure: Callable[[Path, Path], dict[str, float]]
    speeds: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # timing -> side -> values


def main() -> int:
    args = arguments()
    other = Path(args.checkout).resolve()
    if not (other / "rung" / "__init__.py").exists():
        print(f"{other} is no checkout of Rung", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"machine    {report.machine()}")
    sides = {"before": other, "now": ROOT}
    print(", ".join(f"{name} {revision(path)}" for name, path in sides.items()), flush=True)
    found = []
    for one in measurements():
        if args.only and one.name not in args.only:
            continue
        path, amount = one.prepare(args)
        for repeat in range(args.repeats):
            # Who goes first changes, so that neither always meets the warmer machine.
            for side in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
                for timing, seconds in one.measure(sides[side], path).items():
                    by_side = one.speeds.setdefault(timing, {s: [] for s in sides})
                    by_side[side].append(amount / seconds)
        found.append(one)
        for line in lines(one):
            print(line, flush=True)
    if args.record:
        record(found, sides)
    return int(any(ratio(speeds) < LEAST for one in found for speeds in one.speeds.values()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.before", description="Rung beside a build before.")
    parser.add_argument("checkout", help="folder of the other checkout")
    names = [one.name for one in measurements()]
    parser.add_argument("--only", action="append", choices=names, help="repeat for several")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, taking turns")
    parser.add_argument("--items", type=int, default=24, help="of each task that is evaluated")
    parser.add_argument("--rows", type=int, default=192, help="whose features are read")
    parser.add_argument("--base", default="smollm2-135m")
    parser.set_defaults(batch_sizes=[])
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


def measurements() -> list[Measurement]:
    """Everything that is compared, in the order in which it runs."""
    return [
        *(Measurement(c.name, _training(c), _timed("bench.train_rung")) for c in COMPARISONS),
        Measurement("last_layers", _last_layers, _timed("bench.features_rung")),
        Measurement("features", _features, _pooled),
        Measurement("eval", _evaluation, _evaluated),
        Measurement("serve", _serving, _served),
        Measurement("start_up", _starting, _started),
    ]


# --- jobs -----------------------------------------------------------------------------------------


def _training(comparison: Any) -> Callable[[argparse.Namespace], tuple[Path, float]]:
    def prepare(args: argparse.Namespace) -> tuple[Path, float]:
        base, template = load_base(args.base)
        folder = FOLDER / comparison.name
        folder.mkdir(exist_ok=True)
        path = job(comparison, base, template, folder, max(4, comparison.steps // 2))
        content = json.loads(path.read_text())
        _write_adapter(args.base, comparison, Path(content["adapter"]))
        return path, _tokens(content)

    return prepare


def _write_adapter(base: str, comparison: Any, folder: Path) -> None:
    """A fresh adapter in PEFT's layout, which both checkouts start from."""
    import torch

    from rung import bases, methods
    from rung.forward.bank import Bank
    from rung.methods import artefact
    from rung.methods.base import Start

    loaded = bases.load(bases.resolve(base))
    bank = Bank(loaded.model)
    method = methods.get(comparison.method)
    names = {"r": "rank", "lora_alpha": "alpha", "num_virtual_tokens": "virtual_tokens"}
    given = {names[k]: v for k, v in comparison.settings.items() if k in names}
    config = method.Config(**given)
    start = Start(torch.Generator().manual_seed(0), [tuple(range(10, 90))])
    adapter = method.build(bank, config, start)
    folder.mkdir(parents=True, exist_ok=True)
    artefact.write_adapter(folder, method, *method.to_files(adapter, bank, config), loaded.info)


def _last_layers(args: argparse.Namespace) -> tuple[Path, float]:
    base, template = load_base(args.base)
    folder = FOLDER / "last_layers"
    folder.mkdir(exist_ok=True)
    path = last_layers_job(base, template, folder, 96)
    return path, _tokens(json.loads(path.read_text()))


def _features(args: argparse.Namespace) -> tuple[Path, float]:
    """Rows of 50 tokens that share nothing, so that a batch as a trie saves nothing."""
    import random

    draw = random.Random(0)
    rows = [[draw.randrange(10, 40000) for _ in range(ROW_TOKENS)] for _ in range(args.rows)]
    path = FOLDER / "features.json"
    base, _ = load_base(args.base)
    path.write_text(json.dumps({"base": base, "rows": rows, "asked": ASKED}))
    return path, 1.0


def _tokens(content: dict[str, Any]) -> float:
    lengths = [len(example["ids"]) for example in content["examples"]]
    return float(sum(lengths[i] for batch in content["batches"] for i in batch))


def _evaluation(args: argparse.Namespace) -> tuple[Path, float]:
    from bench.eval import prepare

    path = FOLDER / "eval.json"
    path.write_text(json.dumps(prepare(args)))
    return path, float(args.items)


def _serving(args: argparse.Namespace) -> tuple[Path, float]:
    from bench import serve

    content = serve.prepare(args.base)
    path = FOLDER / "serve.json"
    path.write_text(json.dumps({**content, "serve": serve.MIXED, "copies": 0, "lanes": serve.LANES}))
    return path, 1.0


def _starting(args: argparse.Namespace) -> tuple[Path, float]:
    path = FOLDER / "start_up.json"
    path.write_text(json.dumps({"base": args.base}))
    return path, 1.0


# --- sides ----------------------------------------------------------------------------------------


def _environment(checkout: Path) -> dict[str, str]:
    quiet = {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # as a user's Python: it compiles a module once
    }
    return os.environ | quiet | {"PYTHONPATH": str(checkout)}


def _run(checkout: Path, module: str | Path, path: Path) -> dict[str, Any]:
    """One process of a checkout on a job, by its own module or a script of ours -> what it wrote."""
    name = module.stem if isinstance(module, Path) else module
    result, log = FOLDER / "result.json", FOLDER / f"{name}.log"
    result.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="rung-bench-") as home, log.open("w") as out:
        run = [str(module)] if isinstance(module, Path) else ["-m", module]
        command = [sys.executable, *run, str(path), str(result)]
        environment = _environment(checkout) | {"RUNG_HOME": home}  # nothing that a run before kept
        done = subprocess.run(command, cwd=checkout, env=environment, stdout=out, stderr=out)
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise SystemExit(f"{module} of {checkout} failed, see {log}:\n{tail}")
    return json.loads(result.read_text())


def _timed(module: str) -> Callable[[Path, Path], dict[str, float]]:
    return lambda checkout, path: {"": _run(checkout, module, path)["seconds"]}


def _pooled(checkout: Path, path: Path) -> dict[str, float]:
    """Seconds per row: all rows at every boundary, and one row at a time at one layer."""
    job = json.loads(path.read_text())
    found = _run(checkout, ROOT / "bench" / "features_pooled.py", path)
    return {"": found["fit"] / len(job["rows"]), "_one_row": found["ask"] / job["asked"]}


def _evaluated(checkout: Path, path: Path) -> dict[str, float]:
    tasks = _run(checkout, "bench.eval_rung", path)["tasks"]
    return {f"_{name}": found["seconds"] for name, found in tasks.items()}


def _served(checkout: Path, path: Path) -> dict[str, float]:
    """Seconds per token, with one client and with many."""
    from bench import serve
    from bench.serve_clients import ask

    questions, found = json.loads(path.read_text())["prompts"], {}
    with _server(checkout, path) as port:
        warm = [(serve.MIXED[i % len(serve.MIXED)], questions[-1 - i]) for i in range(serve.LANES)]
        ask(port, warm, serve.LANES, serve.TOKENS, {})
        for clients in CLIENTS:
            some = questions[: max(4, 2 * clients)]
            asked = [(serve.MIXED[i % len(serve.MIXED)], ids) for i, ids in enumerate(some)]
            found[f"_{clients}"] = 1 / ask(port, asked, clients, serve.TOKENS, {}).speed
    return found


def _started(checkout: Path, path: Path) -> dict[str, float]:
    """Seconds from `rung chat -p` to the first character of the answer."""
    home = FOLDER / f"home-start-{checkout.name}"
    base = json.loads(path.read_text())["base"]
    if not home.exists():  # what is converted and checked once is there the next time
        _first_token(checkout, home, base)
    return {"": _first_token(checkout, home, base)}


def _first_token(checkout: Path, home: Path, base: str) -> float:
    began = time.perf_counter()
    environment = _environment(checkout) | {"RUNG_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    with (FOLDER / "start_up.log").open("w") as log, subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "chat", base, "-p", "hello"], cwd=checkout,
        env=environment, stdout=subprocess.PIPE, stderr=log,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
    if process.returncode or not first.strip():
        raise SystemExit(f"rung chat of {checkout} failed, see {log.name}")
    return seconds


@contextlib.contextmanager
def _server(checkout: Path, path: Path) -> Iterator[int]:
    from bench import serve

    port = serve.free_port()
    with (FOLDER / "serve.log").open("w") as log:
        # A store of its own: the older checkout refuses one that the newer has migrated.
        home = {"RUNG_HOME": str(FOLDER / f"home-{checkout.name}")}
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.serve_rung", str(path), str(port)], cwd=checkout,
            env=_environment(checkout) | home, stdout=log, stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip
        try:
            serve.wait_for(port, process, log.name)
            yield port
        finally:
            serve.end(process)


# --- figures --------------------------------------------------------------------------------------


def ratio(speeds: dict[str, list[float]]) -> float:
    """This checkout's median speed over the other's."""
    return statistics.median(speeds["now"]) / statistics.median(speeds["before"])


def lines(one: Measurement) -> list[str]:
    """A line per timing, for people and scripts."""
    return [
        f"RATIO {one.name}{timing}_vs_before {ratio(speeds):.2f}   "
        + ", ".join(f"{side} {statistics.median(v):.4g} ({min(v):.4g} to {max(v):.4g})"
                    for side, v in speeds.items())
        for timing, speeds in one.speeds.items()
    ]  # fmt: skip


def revision(checkout: Path) -> str:
    """The commit of a checkout, or its folder's name where git does not know it."""
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or checkout.name


def record(found: list[Measurement], sides: dict[str, Path]) -> None:
    """Append the ratios with the machine they were measured on."""
    names = ", ".join(f"{name} {revision(path)}" for name, path in sides.items())
    text = [f"\n## Beside the build before, {datetime.date.today().isoformat()}\n"]
    text += [f"{report.machine()}; {names}. Speeds: median (least to most).\n"]
    text += [f"- {line}" for one in found for line in lines(one)]
    with report.RESULTS.open("a") as out:
        out.write("\n".join(text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
