"""How fast a base reads and writes here: one long prompt, one stream, many streams."""

from __future__ import annotations

import time
from typing import Any

import torch

from rung.evals.basecard.material import material
from rung.evals.basecard.progress import Progress
from rung.evals.basecard.subject import Subject
from rung.forward.trie import Sequence
from rung.types import Decoding

READ = (256, 1024)  # tokens of the prompt, quick and thorough
WRITTEN = (8, 24)  # tokens of each stream
STREAMS = 16


@torch.inference_mode()
def speed(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """Tokens per second; the better of two readings, since other work on the machine only slows."""
    room = subject.context - 1
    count = min(READ[not quick], room)
    text = subject.encode("\n\n".join(p.text for p in material().passages))
    prompt = (text * (count // len(text) + 1))[:count]
    _read(subject, prompt[:32])  # what is set up once is not the base's speed
    _write(subject, STREAMS, 1)
    reading = []
    for i in range(2):
        reading.append(_read(subject, prompt))
        progress((i + 1) / 4)
    tokens = min(WRITTEN[not quick], room - 16)
    one = min(_write(subject, 1, tokens) for _ in range(2))
    progress(0.75)
    many = min(_write(subject, STREAMS, tokens) for _ in range(2))
    progress(1)
    return {
        "read_tokens": count,
        "read_per_second": count / min(reading),
        "write_per_second": tokens / one,
        "streams": STREAMS,
        "write_per_second_streams": STREAMS * tokens / many,
    }


def _read(subject: Subject, ids: tuple[int, ...]) -> float:
    began = time.perf_counter()
    bank = subject.bank
    hidden = bank.forward(bank.trie([Sequence(ids)]))
    float(bank.logits(hidden[-1:], [-1])[0, 0])  # reading a value waits for the device
    return time.perf_counter() - began


def _write(subject: Subject, streams: int, tokens: int) -> float:
    """Seconds for `tokens` of every stream, without reading the prompts."""
    ids = subject.encode(material().beginnings[0])[:16]
    took = []
    for most in (1, tokens + 1):
        how = [Decoding(max_tokens=most, temperature=1.0, seed=i) for i in range(streams)]
        began = time.perf_counter()
        subject.generate([ids] * streams, how)
        took.append(time.perf_counter() - began)
    # Other work that fell upon the first of them must not make the second look fast: to read a token
    # takes no longer than to write one.
    return max(took[1] - took[0], took[1] * tokens / (tokens + 1 + len(ids)))
