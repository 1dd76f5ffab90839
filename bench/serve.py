"""Serving beside vLLM and PEFT, in one run on one machine.

    make bench-serve
    make bench-serve ARGS="--only rung_mixed --clients 32"     # one server, one number of clients
    make bench-serve ARGS="--record"                           # adds the figures to bench/RESULTS.md

Every side is a server of its own process, one at a time, with both cores, the same base in float32 and
the same prompts as token ids; 64 tokens are drawn greedily for each, over HTTP, streamed. The clients
run on the same machine. `rung_mixed` serves 3 LoRA, 2 prefixes, 2 soft prompts and the bare base side
by side, `rung_lora` and `vllm_lora` 8 LoRA, `peft` the mixed ones, one `generate` for all that wait for
the same adapter. `rung_1` serves one LoRA of PEFT's default rank and targets, `rung_1000` a thousand of
them, each question to a random one. Start-up is from the process's beginning to the first token.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import report
from bench.serve_clients import Round, ask
from bench.serve_items import LORA, MIXED, prompts, write_adapters

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench" / "serve"
PEER_PYTHON = ROOT / "bench" / ".peers" / "bin" / "python"
VLLM_PYTHON = ROOT / "bench" / ".vllm" / "bin" / "python"
TOKENS = 64
CLIENTS = (1, 8, 32)
LANES = 32
PATIENCE = 600.0  # seconds that a server may take to start
# Both cores for vLLM, which otherwise keeps one for itself.
BOTH_CORES = {"VLLM_CPU_OMP_THREADS_BIND": "0-1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}


@dataclass(frozen=True)
class Side:
    """One server: which names it is asked for, and how it is started."""

    name: str
    models: tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict, hash=False)
    copies: int = 0

    def command(self, job: dict[str, Any], path: Path, port: int) -> list[str]:
        if self.name.startswith("rung"):
            return [sys.executable, "-m", "bench.serve_rung", str(path), str(port)]
        if self.name.startswith("peft"):
            return [str(PEER_PYTHON), str(ROOT / "bench/peers/serve_peft.py"), str(path), str(port)]
        modules = [f"{name}={job['adapters'][name]}" for name in self.models]
        return [
            str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", job["path"],
            "--port", str(port), "--dtype", "float32", "--gpu-memory-utilization", "0.3",
            "--max-model-len", "2048", "--max-num-seqs", str(LANES), "--enable-lora",
            "--max-loras", str(len(modules)), "--max-lora-rank", "16", "--lora-modules", *modules,
        ]  # fmt: skip


SIDES = (
    Side("rung_mixed", tuple(MIXED)),
    Side("rung_lora", tuple(LORA)),
    Side("vllm_lora", tuple(LORA), {"ignore_eos": True}),
    Side("peft", tuple(MIXED)),
    Side("rung_1", (), copies=1),
    Side("rung_1000", (), copies=1000),
)
GOALS = {
    "serve_mixed_vs_vllm_lora": 1.3, "serve_mixed_vs_peft": 5.0, "serve_one_stream_vs_vllm": 1.3,
    "serve_1000_adapters": 0.9,
}  # fmt: skip


class Unstarted(Exception):
    """A server did not come up; the others are measured all the same."""


@contextlib.contextmanager
def server(side: Side, name: str, job: dict[str, Any]) -> Iterator[tuple[int, float]]:
    """A running server -> its port and the seconds to its first token, which `name` draws."""
    port = free_port()
    path = FOLDER / f"{side.name}.json"
    path.write_text(json.dumps({**job, "serve": side.models, "copies": side.copies, "lanes": LANES}))
    environment = os.environ | BOTH_CORES | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (FOLDER / f"{side.name}.log").open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            side.command(job, path, port), cwd=ROOT, env=environment, stdout=log,
            stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip
        try:
            wait_for(port, process, log.name)
            one = ask(port, [(name, job["prompts"][-1])], 1, TOKENS, side.extra).answers[0]
            yield port, time.perf_counter() - began - one.times[-1] + one.times[0]
        finally:
            end(process)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen, log: str) -> None:
    """Until somebody listens on a port."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            tail = "\n".join(Path(log).read_text().splitlines()[-15:])
            raise Unstarted(f"it ended, see {log}:\n{tail}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise Unstarted(f"nobody listened after {PATIENCE:g} s, see {log}")


def end(process: subprocess.Popen) -> None:
    """End a server and what it started."""
    for sign, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


# --- measuring --------------------------------------------------------------------------------------


@dataclass
class Found:
    """What one side showed.

    Attributes:
        start: seconds from the process's beginning to the first token.
        rounds: by how many clients asked at once.
        told: what the server printed of its adapters.
    """

    side: Side
    start: float
    rounds: dict[int, Round] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)


def measure(side: Side, job: dict[str, Any], args: argparse.Namespace) -> Found:
    """Start a side, warm it up, and ask with ever more clients."""
    questions = job["prompts"]
    names = side.models or tuple(f"copy{i}" for i in range(side.copies))
    draw = random.Random(0)
    with server(side, names[0], job) as (port, start):
        found = Found(side, start)
        warm = [(names[i % len(names)], questions[-1 - i]) for i in range(LANES)]
        ask(port, warm, LANES, TOKENS, side.extra)
        if side.copies:  # whoever serves a thousand has answered for each of them before
            ask(port, [(name, questions[-1]) for name in names], LANES, 1, side.extra)
        begin = 0
        for clients in [LANES] if side.copies else args.clients or CLIENTS:
            count = clients * max(args.rounds, 4 if clients == 1 or side.copies else 1)
            some = questions[begin : begin + count]
            begin += count
            if side.copies:
                asked = [(draw.choice(names), ids) for ids in some]
            else:  # every model equally often, also by one client
                asked = [(names[i % len(names)], ids) for i, ids in enumerate(some)]
            found.rounds[clients] = ask(port, asked, clients, TOKENS, side.extra)
            print(f"  {side.name:10} {clients:2} clients  {told(found.rounds[clients])}", flush=True)
    lines = (FOLDER / f"{side.name}.log").read_text().splitlines()
    found.told = next((json.loads(x) for x in lines if x.startswith('{"adapter_bytes"')), {})
    return found


def told(one: Round) -> str:
    """A round in words: times in milliseconds, at the 50th and 99th percentile."""
    times = f"first token {shown(one.first())}, between tokens {shown(one.between())} ms"
    return f"{one.speed:6.1f} tokens/s, {times}"


def shown(seconds: list[float]) -> str:
    """The 50th and 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return "/".join(f"{ordered[int((len(ordered) - 1) * p)] * 1e3:.0f}" for p in (0.5, 0.99))


def prepare(base: str) -> dict[str, Any]:
    """Write the adapters -> the job that every server reads."""
    from rung import bases
    from rung.data import Template
    from rung.forward.bank import Bank

    FOLDER.mkdir(parents=True, exist_ok=True)
    loaded = bases.load(bases.resolve(base))
    adapters = write_adapters(Bank(loaded.model), loaded.info, FOLDER / "adapters")
    return {
        "base": base, "path": str(loaded.info.path), "adapters": adapters,
        "prompts": prompts(Template.of(loaded.tokenizer)),
    }  # fmt: skip


def ratios(found: dict[str, Found]) -> dict[str, float]:
    """Every comparison both of whose sides were measured."""
    wanted = {
        "serve_mixed_vs_vllm_lora": ("rung_mixed", "vllm_lora", 32),
        "serve_mixed_vs_peft": ("rung_mixed", "peft", 32),
        "serve_one_stream_vs_vllm": ("rung_lora", "vllm_lora", 1),
        "serve_1000_adapters": ("rung_1000", "rung_1", 32),
    }
    speeds = {(f.side.name, n): r.speed for f in found.values() for n, r in f.rounds.items()}
    return {
        name: speeds[ours, n] / speeds[theirs, n]
        for name, (ours, theirs, n) in wanted.items()
        if (ours, n) in speeds and (theirs, n) in speeds
    }


def main() -> int:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server that runs is ended too
    print(f"machine    {report.machine()}\n", flush=True)
    job = prepare(args.base)
    found: dict[str, Found] = {}
    faults = []
    for side in SIDES:
        if args.only and side.name not in args.only:
            continue
        try:
            found[side.name] = one = measure(side, job, args)
        except (Unstarted, RuntimeError, OSError) as fault:
            faults.append(f"{side.name}: {fault}")
            continue
        print(f"  {side.name:10} start-up to first token {one.start:.1f} s{_memory(one)}\n", flush=True)
    reached = ratios(found)
    for name, value in reached.items():
        print(f"RATIO {name} {value:.2f}")
        if value < GOALS[name]:
            faults.append(f"{name} is {value:.2f}, below {GOALS[name]:g}")
    if args.record:
        record(found, reached, faults)
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def _memory(one: Found) -> str:
    if not one.told:
        return ""
    size, resident = one.told["adapter_bytes"] / 1e6, one.told["resident_bytes"] / 1e6
    return f", {one.side.copies} adapters of {size:.2f} MB, {resident:.2f} MB resident each"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.serve", description="Rung beside vLLM and PEFT.")
    names = [s.name for s in SIDES]
    parser.add_argument("--only", action="append", choices=names, help="repeat for several")
    parser.add_argument(
        "--clients", action="append", type=int, choices=CLIENTS, help="repeat for several"
    )
    parser.add_argument("--rounds", type=int, default=2, help="questions of each client")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


def record(found: dict[str, Found], reached: dict[str, float], faults: list[str]) -> None:
    """Append a table with the machine it was measured on."""
    lines = [
        f"\n## Serving, {datetime.date.today().isoformat()}\n",
        f"{report.machine()}; {_versions()}. Times in milliseconds, 50th/99th percentile.\n",
        "| side | clients | tokens/s | first token | between tokens | start-up s |",
        "|---|---|---|---|---|---|",
    ]
    for one in found.values():
        for i, (clients, r) in enumerate(one.rounds.items()):
            cells = ["" if i else one.side.name, str(clients), f"{r.speed:.1f}"]
            cells += [shown(r.first()), shown(r.between()), "" if i else f"{one.start:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- RATIO {name} {value:.2f}" for name, value in reached.items())]
    lines += [f"- {o.side.name}{_memory(o)}" for o in found.values() if o.told]
    lines += [f"- FAULT {fault}" for fault in faults]
    with report.RESULTS.open("a") as out:
        out.write("\n".join(lines) + "\n")


def _versions() -> str:
    """Of what served, as each environment says."""
    code = "import importlib.metadata as m, sys; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    found = []
    for python, names in ((sys.executable, ["rung", "torch"]), (PEER_PYTHON, ["peft", "transformers"]),
                          (VLLM_PYTHON, ["vllm-cpu"])):  # fmt: skip
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            out = subprocess.run([str(python), "-c", code, *names], capture_output=True, check=True)
            found.append(out.stdout.decode().strip())
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
