"""Training on several processes beside one: what the launcher costs, and what sharding saves.

    make bench-distributed                                    # speeds and memory, some 15 minutes
    make bench-distributed ARGS="--only speed --steps 30 --repeats 5"
    make bench-distributed ARGS="--only memory --layers 2"    # a smaller base, to see that it runs

Speeds: the same LoRA training of smollm2-135m by `rung tune` in one process without a launcher, in one
that torchrun starts, and in two; they take turns, and the medians count. Seconds are those of the steps
as the run's log has them, without the first, and of the whole command.

Memory: one step of LoRA on a base with random bfloat16 weights in the shape of a model of 1.7 billion
parameters, whole in one process and sharded over two. A process's peak is its high-water mark, read
from /proc (VmHWM) until it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import report
from bench.train import ROOT, load_base

FOLDER = ROOT / "build" / "bench" / "distributed"
HOME = FOLDER / "home"
BASE = "smollm2-135m"
LEAST = 0.97  # of the speed without a launcher
MOST = 0.6  # of the peak of one process
LOOK = 0.05  # seconds between two looks at the processes
BOTH = ["--launch", "torchrun", "--processes"]
SIDES = {"local": [], "torchrun 1": [*BOTH, "1"], "torchrun 2": [*BOTH, "2"]}
SENTENCE = "the rungs of a ladder are counted from the ground to the window that is open"
WORDS = SENTENCE.split(" ")


@dataclass
class Seen:
    """Of one command: seconds of all and of its steps, and the peak bytes of each process by rank."""

    whole: float
    steps: float
    peaks: dict[int, int] = field(default_factory=dict)


def main() -> int:
    args = arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ["RUNG_HOME"] = str(HOME)
    load_base(BASE)  # fetched and converted before anything is timed
    print(f"machine    {report.machine()}", flush=True)
    fine = True
    if args.only != "memory":
        fine &= speeds(args)
    if args.only != "speed":
        fine &= memory(args)
    return 0 if fine else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=("speed", "memory"))
    parser.add_argument("--steps", type=int, default=20, help="of a training whose speed counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=24, help="of the base that is sharded")
    parser.add_argument("--tokens", type=int, default=1024, help="of a step on the sharded base, about")
    return parser.parse_args()


def speeds(args: argparse.Namespace) -> bool:
    """Print the speed of each side; returns whether the launcher costs nothing."""
    data = rows(64, 40)
    settings = ["--base", BASE, "--dtype", "float32", "--steps", str(args.steps), "--epochs",
                "1000", "--batch-size", "8", "--max-tokens", "4096"]  # fmt: skip
    found: dict[str, list[Seen]] = {side: [] for side in SIDES}
    for _ in range(args.repeats):
        for side, how in SIDES.items():
            found[side].append(tune(data, [*settings, *how]))
    middle = {side: statistics.median(s.steps for s in seen) for side, seen in found.items()}
    for side, seen in found.items():
        whole = statistics.median(s.whole for s in seen)
        print(f"{side:10}  {middle[side]:6.2f} s for {args.steps - 1} steps, {whole:6.1f} s in all")
    ratio = middle["local"] / middle["torchrun 1"]
    print(f"RATIO ddp_one_process {ratio:.2f}   ({LEAST:g} wanted)")
    print(f"RATIO ddp_two_processes {middle['local'] / middle['torchrun 2']:.2f}   (said, not wanted)")
    return ratio >= LEAST


def memory(args: argparse.Namespace) -> bool:
    """Print the peak of each side; returns whether sharding saves what it should."""
    base = random_base(args.layers)
    batch = max(2, args.tokens // 64)
    settings = ["--base", str(base), "--dtype", "bfloat16", "--steps", "1", "--batch-size", str(batch),
                "--max-tokens", str(4 * args.tokens), "--epochs", "1000"]  # fmt: skip
    data = rows(2 * batch + 8, 60)
    alone = tune(data, settings)
    parts = tune(data, [*settings, *SIDES["torchrun 2"], "--shard"])
    for side, seen in (("one process", alone), ("sharded over two", parts)):
        peaks = ", ".join(f"{peak / 1e9:.2f} GB" for _, peak in sorted(seen.peaks.items()))
        print(f"{side:17} peak {peaks}; {seen.whole:.0f} s in all")
    ratio = max(parts.peaks.values()) / max(alone.peaks.values())
    print(f"RATIO shard_peak {ratio:.2f}   (at most {MOST:g} wanted)")
    return ratio <= MOST


def rows(count: int, words: int) -> Path:
    """A file of rows with replies of so many words, each of about one token."""
    data = FOLDER / f"rows-{count}-{words}.jsonl"
    lines = [
        {"prompt": f"Say {i}.", "completion": " ".join(WORDS[(i + k * 7) % 16] for k in range(words))}
        for i in range(count)
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return data


def random_base(layers: int) -> Path:
    """A folder with random weights in the shape of a base of 1.7 billion parameters at 24 layers."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = FOLDER / f"base-{layers}"
    if (folder / "model.safetensors.index.json").exists() or (folder / "model.safetensors").exists():
        return folder
    small, _ = load_base(BASE)
    tokenizer = AutoTokenizer.from_pretrained(small)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=32, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tune(data: Path, settings: list[str]) -> Seen:
    """Run `rung tune` to its end.

    Raises:
        SystemExit: with what it said, when it failed.
    """
    command = [sys.executable, "-m", "rung", "tune", "bench", "--replace", "--data", str(data),
               "--method", "lora", "--patience", "0", "--save-seconds", "100000", "--json"]  # fmt: skip
    with (FOLDER / "said.txt").open("w+") as said:
        began = time.perf_counter()
        started = subprocess.Popen(
            [*command, *settings], stdout=subprocess.PIPE, stderr=said, text=True
        )
        peaks = watch(psutil.Process(started.pid))
        out, _ = started.communicate()
        whole = time.perf_counter() - began
        said.seek(0)
        if started.returncode:
            raise SystemExit(said.read())
    log = HOME / "runs" / json.loads(out.splitlines()[-1])["run"] / "log.jsonl"
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    return Seen(whole, sum(s["seconds"] for s in steps[1:] if "seconds" in s), peaks)


def watch(command: psutil.Process) -> dict[int, int]:
    """The high-water mark of every process that trains, by its rank, until the command has ended."""
    peaks: dict[int, int] = {}
    while command.is_running() and command.status() != psutil.STATUS_ZOMBIE:
        for process in [command, *command.children(recursive=True)]:
            try:
                rank = int(process.environ().get("RANK", -1))
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (psutil.Error, OSError):
                continue  # it has just ended
            mark = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
            if mark is not None:
                peaks[rank] = max(peaks.get(rank, 0), int(mark.split()[1]) * 1024)
        time.sleep(LOOK)
    return {rank: peak for rank, peak in peaks.items() if rank >= 0} or peaks


if __name__ == "__main__":
    raise SystemExit(main())
