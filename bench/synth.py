"""Writing rows as constrained JSON: tokens per second beside transformers with outlines.

Both sides draw answers to the same prompts from the same teacher, under the same JSON schema, and only
tokens that were drawn count. Each side has the batches that suit it: the peer's are tried in several
sizes, of which the fastest counts. The peer has an environment of its own (`bench/.peers`) with
`outlines`.

    make bench-synth                    # all of it; about 10 minutes on two quiet cores
    make bench-synth ARGS="--rows 8"    # a try
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from rung import bases
from rung.synthesis.kinds import get
from rung.synthesis.kinds.base import Draft
from rung.synthesis.local_teacher import MAX_WAVE
from rung.synthesis.topics import ANGLES

PEER = Path(__file__).resolve().parent / "peers" / "synth_outlines.py"
PYTHON = Path(__file__).resolve().parent / ".peers" / "bin" / "python"
DESCRIPTION = "Answers any worry with one warm, concrete sentence."
TOPICS = (
    "exams",
    "a sick pet",
    "money",
    "a quarrel",
    "a new town",
    "sleep",
    "speaking in public",
    "work",
)
MAX_TOKENS = 120  # of an answer; the same for both
PEER_BATCHES = (16, 32, 64)
TARGET = 3.0


def questions(rows: int) -> tuple[list, dict]:
    """The messages of the first stage of replies, and the schema of its answers."""
    kind = get("replies")
    drafts = [
        Draft(index=i, topic=TOPICS[i % len(TOPICS)], angle=ANGLES[i % len(ANGLES)])
        for i in range(rows)
    ]
    schema = kind.stages[0].schema()
    assert schema is not None
    return [kind.messages(0, DESCRIPTION, draft) for draft in drafts], dict(schema)


def ours(base: str, asked: list, schema: dict) -> dict[str, float]:
    """Draw all answers in this process -> tokens, seconds, answers that parse."""
    from rung.engine import GenerationRequest
    from rung.models import load_engine
    from rung.types import Decoding

    engine = load_engine([base], max_batch=MAX_WAVE)
    engine.arrange()
    name = next(iter(engine.models))
    model = engine.model(name)
    constraint = engine.constraint(name, "json_schema", schema)

    def draw(messages: list, seed: int) -> list:
        requests = [
            GenerationRequest(
                name, model.prompt(one),
                Decoding(max_tokens=MAX_TOKENS, temperature=0.8, top_p=0.95, seed=seed + i),
                constraint=constraint,
            )
            for i, one in enumerate(messages)
        ]  # fmt: skip
        return engine.generate(requests)

    draw(asked[:4], 0)  # what is prepared once is not timed on either side
    begun = time.perf_counter()
    found = [
        one for at in range(0, len(asked), MAX_WAVE) for one in draw(asked[at : at + MAX_WAVE], at)
    ]
    seconds = time.perf_counter() - begun
    return {
        "tokens": sum(one.completion_tokens for one in found), "seconds": seconds,
        "whole": sum(parses(one.text) for one in found),
    }  # fmt: skip


def theirs(folder: str, asked: list, schema: dict, python: Path, batch: int) -> dict[str, float]:
    """The same by transformers with outlines, in a process of its own and batches of one size."""
    with tempfile.TemporaryDirectory() as place:
        request = Path(place) / "request.json"
        content = {
            "base": folder, "messages": asked, "schema": schema, "batch": batch,
            "max_tokens": MAX_TOKENS,
        }  # fmt: skip
        request.write_text(json.dumps(content))
        done = subprocess.run(
            [str(python), str(PEER), str(request)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the peer failed: {done.stderr.strip().splitlines()[-1:]}")
        found = json.loads(done.stdout.splitlines()[-1])
    found["whole"] = sum(parses(text) for text in found.pop("texts"))
    return found


def parses(text: str) -> bool:
    """Whether an answer is the object that was asked for."""
    try:
        return isinstance(json.loads(text)["prompt"], str)
    except (ValueError, KeyError, TypeError):
        return False


def main() -> None:
    """Print both sides and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--alone", action="store_true", help="measure Rung without the peer")
    parser.add_argument("--python", type=Path, default=PYTHON, help="of an environment with outlines")
    chosen = parser.parse_args()
    asked, schema = questions(chosen.rows)
    own = ours(chosen.base, asked, schema)
    told(f"rung, {chosen.rows} rows", own)
    if chosen.alone:
        return
    folder, peers = bases.resolve(chosen.base).path, []
    for batch in PEER_BATCHES:
        peers.append(theirs(folder, asked, schema, chosen.python, batch))
        told(f"transformers with outlines, batches of {batch}", peers[-1])
    ratio = speed(own) / max(map(speed, peers))
    print(f"RATIO synth {ratio:.2f} (wanted {TARGET:g})")


def speed(found: dict[str, float]) -> float:
    """Tokens per second."""
    return found["tokens"] / found["seconds"]


def told(who: str, found: dict[str, float]) -> None:
    print(
        f"{who}: {found['tokens']:.0f} tokens in {found['seconds']:.1f} s, {speed(found):.1f}/s, "
        f"{found['whole']:.0f} whole"
    )


if __name__ == "__main__":
    main()
