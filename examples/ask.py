"""Ask one model of a running server through the official `openai` client, streaming.

python examples/ask.py http://127.0.0.1:8000/v1 coach "I want you to act as a motivational coach."
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI


def ask(address: str, model: str, prompt: str) -> None:
    """Print the answer as it comes."""
    client = OpenAI(base_url=address, api_key=os.environ.get("RUNG_API_KEY", "none"))
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], max_tokens=80, stream=True
    )
    print(f"\n{model}> ", end="", flush=True)
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/ask.py ADDRESS MODEL PROMPT")
    ask(*sys.argv[1:])
