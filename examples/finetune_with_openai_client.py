"""Tune a model through a server with the official OpenAI client, and ask the result.

    rung serve smollm2-135m &
    python examples/finetune_with_openai_client.py

Without --data it makes twelve rows of its own, enough to see the whole way in a minute or two.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from openai import OpenAI

ANIMALS = (
    "cat", "dog", "owl", "fox", "frog", "goat", "hare", "lynx", "mole", "newt", "seal", "wolf"
)  # fmt: skip
OVER = ("succeeded", "failed", "cancelled")


def own_rows() -> bytes:
    """Conversations that teach a way of speaking."""
    rows = []
    for animal in ANIMALS:
        question = {"role": "user", "content": f"What is a {animal}?"}
        answer = {"role": "assistant", "content": f"Ahoy! A {animal} be a fine beast, matey."}
        rows.append(json.dumps({"messages": [question, answer]}))
    return "\n".join(rows).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--model", default="smollm2-135m", help="the base to tune")
    parser.add_argument("--data", type=Path, help="JSON lines of messages")
    parser.add_argument("--suffix", default="pirate", help="what to call the result")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--ask", default="What is a bear?")
    given = parser.parse_args()
    client = OpenAI(base_url=given.base_url, api_key=given.api_key)

    content = given.data.read_bytes() if given.data else own_rows()
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    print(f"uploaded {file.filename} as {file.id} ({file.bytes} bytes)")

    job = client.fine_tuning.jobs.create(
        model=given.model,
        training_file=file.id,
        suffix=given.suffix,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": given.epochs, "batch_size": 4}},
        },
    )
    job = follow(client, job.id)
    if job.status != "succeeded" or job.fine_tuned_model is None:
        print(f"the job {job.status}: {job.error and job.error.message}", file=sys.stderr)
        return 1

    print(client.files.content(job.result_files[0]).text.splitlines()[-1], "is the last step")
    for model in (given.model, job.fine_tuned_model):
        print(f"\n{model}: ", end="")
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": given.ask}],
            max_completion_tokens=40,
            stream=True,
        )
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
    return 0


def follow(client: OpenAI, id: str):
    """Print a job's events as they come, until it is over."""
    told: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(id)
        for event in reversed(list(client.fine_tuning.jobs.list_events(id, limit=100))):
            if event.id not in told:
                told.add(event.id)
                print(f"  {event.level}: {event.message}", flush=True)
        if job.status in OVER:
            return job
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
