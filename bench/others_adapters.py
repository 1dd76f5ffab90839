"""Adapters of six kinds by TRL's and transformers' own trainers, served from where those left them.

    make bench-adapters

`rung serve` serves them from a process of its own on a tiny random base, whose answers move with every
weight; all six are asked at once through OpenAI's client, so that they stand in one batch, and answer
what PEFT answers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.peers import adapters_made as made_by
from bench.train import PEER_PYTHON, PEERS

SECONDS = 120  # until the server answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", default=str(PEER_PYTHON), help="of an environment with TRL and PEFT"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = _base(Path(place) / "base")
        folder = Path(place) / "made"
        subprocess.run(
            [given.python, str(PEERS / "adapters_made.py"), str(base), str(folder)], check=True
        )
        wanted = json.loads((folder / "answers.json").read_text())
        found = _served(base, wanted, Path(place) / "home")
    wrong = 0
    for checkpoint, texts in wanted.items():
        same = sum(a == b for a, b in zip(texts, found[checkpoint], strict=True))
        wrong += len(texts) - same
        print(f"{Path(checkpoint).parts[-3]}: {same} of {len(texts)} answers are PEFT's")
    distinct = len({tuple(texts) for texts in wanted.values()})
    print(
        f"{len(wanted)} adapters, {distinct} of them with answers of their own, {wrong} answers differ"
    )
    sys.exit(1 if wrong or distinct < len(wanted) else 0)


def _base(folder: Path) -> Path:
    """A tiny random Llama with a chat template."""
    from tests.engine.world import tiny_llama
    from tests.tokens import tiny_tokenizer

    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _served(base: Path, checkpoints: dict[str, list[str]], home: Path) -> dict[str, list[str]]:
    """Each checkpoint's answers, all asked at once of one server."""
    from openai import OpenAI

    command = [sys.executable, "-m", "rung", "serve", str(base), *checkpoints, "--port", "0"]
    process = subprocess.Popen(
        command, env={**os.environ, "RUNG_HOME": str(home)}, stdout=subprocess.PIPE, text=True
    )
    try:
        address = _address(process)
        client = OpenAI(base_url=f"{address}/v1", api_key="none", timeout=SECONDS)
        names = {m.id for m in client.models.list()}
        of = {c: next(n for n in names if c.endswith(f"/{n}")) for c in checkpoints}

        def ask(asked: tuple[str, int]) -> str:
            checkpoint, i = asked
            answer = client.chat.completions.create(
                model=of[checkpoint], messages=made_by.ASKED[i], temperature=0,
                max_tokens=made_by.TOKENS,
            )  # fmt: skip
            return answer.choices[0].message.content or ""

        asked = [(c, i) for c in checkpoints for i in range(len(made_by.ASKED))]
        with ThreadPoolExecutor(len(asked)) as pool:
            texts = dict(zip(asked, pool.map(ask, asked), strict=True))
    finally:
        process.terminate()
        process.wait(30)
    return {c: [texts[c, i] for i in range(len(made_by.ASKED))] for c in checkpoints}


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise RuntimeError("the server ended before it answered")


if __name__ == "__main__":
    main()
