"""Serving beside llama.cpp on a CPU, in one run on one machine.

    make bench-llamacpp
    make bench-llamacpp ARGS="--only int8 --repeats 5"
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 make bench-llamacpp

Rung serves a LoRA of rank 16 on all projections over HTTP, on the base as float32, int8 and int4; the
library of npm's node-llama-cpp runs the bare base within its own process, from GGUF files that Rung's
exporter writes as F32, Q8_0 and Q4_0. Both draw 64 tokens greedily behind the same prompts, by one
stream and by 32, and read a prompt of 1,000 tokens. They take turns, and the medians count. `start_up`
is `rung chat -p hello` of another checkout over this one's: ARGS="--before ../before".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench import report
from bench.climb import Home
from bench.serve import FOLDER as SERVE_FOLDER
from bench.serve import TOKENS, end, free_port, prepare, wait_for
from bench.serve_clients import ask

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench" / "llamacpp"
PLACE = ROOT / "bench" / ".llamacpp" / "node_modules" / "@node-llama-cpp" / "linux-x64" / "bins"
STREAMS, LONG = 32, 1000  # requests at once; tokens of the prompt that is read
KINDS = {"f32": ("none", "float32"), "int8": ("int8", "q8_0"), "int4": ("int4", "q4_0")}
GOALS = {
    "one_stream_f32": 1.0, "one_stream_int8": 1.0, "one_stream_int4": 1.0, "streams32_f32": 3.0,
    "streams32_int8": 2.0, "streams32_int4": 1.5, "prompt_f32": 1.0, "prompt_int8": 1.0,
    "prompt_int4": 1.0, "start_up": 4.0,
}  # fmt: skip
MEASURES = {"one": "one_stream", "many": "streams32", "prefill": "prompt"}
Figures = dict[str, float]


def ours(kind: str, job: dict[str, Any], repeats: int) -> Figures:
    """Rung's figures: a server of its own process, asked over HTTP."""
    port = free_port()
    path = FOLDER / f"rung-{kind}.json"
    path.write_text(
        json.dumps({**job, "serve": ["lora0"], "lanes": STREAMS, "quantize": KINDS[kind][0]})
    )
    command = [sys.executable, "-m", "bench.serve_rung", str(path), str(port)]
    with (FOLDER / f"rung-{kind}.log").open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            wait_for(port, process, log.name)
            ask(port, [("lora0", job["prompts"][-1])], 1, 1, {})
            found = {"start": time.perf_counter() - began}
            ask(port, [("lora0", ids) for ids in job["prompts"][-40:-8]], STREAMS, TOKENS, {})
            one = [ask(port, [("lora0", ids)], 1, TOKENS, {}).speed for ids in job["prompts"][:repeats]]
            found["one"] = statistics.median(one)
            many = [("lora0", ids) for ids in job["prompts"][:STREAMS]]
            found["many"] = ask(port, many, STREAMS, TOKENS, {}).speed
            # Another beginning each time, so that nothing of it is known from before.
            longs = [[ids[0], *job["long"][1:]] for ids in ([n + 100] for n in range(3))]
            times = [ask(port, [("lora0", ids)], 1, 1, {}).answers[0].times[0] for ids in longs]
            found["prefill"] = LONG / statistics.median(times)
            found["peak"] = _peak(process.pid)
        finally:
            end(process)
    return found


def _peak(pid: int) -> float:
    """The most memory that a process has held, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def theirs(kind: str, job: dict[str, Any], repeats: int) -> Figures:
    """llama.cpp's figures: its library in a process of its own."""
    path, answer = FOLDER / f"peer-{kind}.json", FOLDER / f"peer-{kind}-answer.json"
    about = {
        "place": str(library()), "model": str(gguf_of(kind, job["base"], job["adapters"]["lora0"])),
        "prompts": job["prompts"][:STREAMS], "long": job["long"],
        "tokens": TOKENS, "streams": STREAMS, "repeats": repeats,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1),
    }  # fmt: skip
    path.write_text(json.dumps(about))
    command = [sys.executable, "-m", "bench.peers.llamacpp_speed", str(path), str(answer)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"llama.cpp failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(answer.read_text())


def library() -> Path:
    """The folder of the prebuilt library. Raises RuntimeError where make has not installed it."""
    from rung.exports.llama_cpp import LIBRARY

    for place in sorted(PLACE.glob("*")):
        if (place / LIBRARY).is_file():
            return place
    raise RuntimeError(f"there is no {LIBRARY} below {PLACE}: run make bench-llamacpp")


def gguf_of(kind: str, base: str, adapter: str) -> Path:
    """The base with an adapter built in, which is of the base's size, as a GGUF file written once."""
    from rung.exports.gguf import FILE

    folder = FOLDER / f"{base.replace('/', '+')}-{KINDS[kind][1]}"
    if not (folder / FILE).exists():
        with Home() as home:
            for words in (
                ["add", "peer", str(_without_effect(Path(adapter), home / "still")), "--base", base],
                ["export", "peer", str(folder), "--to", "gguf", "--dtype", KINDS[kind][1]],
            ):
                subprocess.run(
                    [sys.executable, "-m", "rung", *words], cwd=ROOT, check=True,
                    env=os.environ | {"RUNG_HOME": str(home)}, stdout=subprocess.DEVNULL,
                )  # fmt: skip
    return folder / FILE


def _without_effect(adapter: Path, folder: Path) -> Path:
    """A copy of a LoRA whose outer matrices are zero: few bits would change a random one too much."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, folder)
    for path in folder.glob("adapter_model.safetensors"):
        held = {k: t * 0 if "lora_B" in k else t for k, t in load_file(path).items()}
        save_file(held, path, metadata={"format": "pt"})
    return folder


def first_token(checkout: Path, base: str) -> float:
    """Seconds from the command to the answer of one token, by a checkout of Rung."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "rung", "chat", base, "-p", "hello", "--max-tokens", "1"]
    began = time.perf_counter()
    subprocess.run(
        command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - began


def start_up(before: Path, base: str, repeats: int) -> float:
    """How many times sooner the first token comes than by another checkout; both warm, in turns."""
    seconds: dict[Path, list[float]] = {before: [], ROOT: []}
    for repeat in range(repeats + 1):
        for checkout, kept in seconds.items():
            took = first_token(checkout, base)
            if repeat:  # the first run fills caches
                kept.append(took)
    medians = {path: statistics.median(kept) for path, kept in seconds.items()}
    print(f"  first token  before {medians[before]:.2f} s, now {medians[ROOT]:.2f} s", flush=True)
    return medians[before] / medians[ROOT]


def told(side: str, figures: Figures) -> str:
    """One side's figures in words."""
    return (
        f"  {side:12} one stream {figures['one']:6.1f} tokens/s, "
        f"{STREAMS} streams {figures['many']:6.1f}, prompt {figures['prefill']:6.0f}, "
        f"start {figures['start']:5.1f} s, peak {figures['peak'] / 1e9:.2f} GB"
    )


def main() -> int:
    args = arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    SERVE_FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"machine    {report.machine()}\n", flush=True)
    job = prepare(args.base)
    job["long"] = [token for ids in job["prompts"][64:] for token in ids][:LONG]
    reached: Figures = {}
    for kind in args.only or KINDS:
        sides: dict[str, list[Figures]] = {"rung": [], "llama.cpp": []}
        for _ in range(args.turns):
            sides["rung"].append(ours(kind, job, args.repeats))
            sides["llama.cpp"].append(theirs(kind, job, args.repeats))
        medians = {
            side: {name: statistics.median(f[name] for f in found) for name in found[0]}
            for side, found in sides.items()
        }
        print(kind)
        for side, figures in medians.items():
            print(told(side, figures), flush=True)
        for name, ratio in MEASURES.items():
            reached[f"{ratio}_{kind}"] = medians["rung"][name] / medians["llama.cpp"][name]
    if args.before:
        reached["start_up"] = start_up(Path(args.before).resolve(), args.base, args.repeats)
    for name, value in reached.items():
        print(f"RATIO {name} {value:.2f}")
    below = [name for name, value in reached.items() if value < GOALS[name]]
    for name in below:
        print(f"FAULT {name} is {reached[name]:.2f}, below {GOALS[name]:g}")
    return 1 if below else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.llamacpp", description="Rung beside llama.cpp.")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="repeat for several")
    parser.add_argument("--turns", type=int, default=3, help="of both sides, one after the other")
    parser.add_argument("--repeats", type=int, default=4, help="questions of one stream")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--before", help="another checkout, for start_up")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
