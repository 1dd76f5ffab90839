"""llama.cpp's side of bench/llamacpp.py: decode and prefill by its library, without a server.

    python -m bench.peers.llamacpp_speed JOB.json ANSWER.json

The job says `place` (the library's folder), `model` (a GGUF file), `prompts` (rows of token ids),
`long` (a row of 1,000), `tokens`, `streams` and `threads`. Its settings are the library's own, so keys
and values are in halves; tokens are drawn greedily and end nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from rung.exports.llama_cpp import _Llama, c

CONTEXT = 256  # tokens of a prompt and its answer
LONG_CONTEXT = 1280  # tokens of the long prompt and its answer


class Speed(_Llama):
    """A model with a context of so many sequences."""

    def __init__(self, job: dict[str, Any]):
        self.streams, self.threads = 1, job["threads"]
        super().__init__(Path(job["place"]), job["model"], None)
        self.lib.llama_get_logits_ith.restype = c.POINTER(c.c_float)
        self.lib.llama_get_logits_ith.argtypes = [c.c_void_p, c.c_int32]
        self.lib.llama_free.argtypes = [c.c_void_p]

    def opened(self, streams: int, context: int) -> None:
        """Make the context anew."""
        self.lib.llama_free(self.context)
        settings = self.lib.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = context * streams, streams
        settings.n_batch = settings.n_ubatch = max(context, 512)
        settings.n_outputs_max = settings.n_outputs_max_per_seq = max(streams, 1)
        settings.n_threads = settings.n_threads_batch = self.threads
        self.context = self.lib.llama_init_from_model(self.model, settings)
        assert self.context

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Decode (token, position, sequence, whether it is read) -> the greedy tokens of those read."""
        batch = self.lib.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, at, sequence, read) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, at, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, read
        if self.lib.llama_decode(self.context, batch):
            raise SystemExit("it cannot decode")
        found = []
        for i, row in enumerate(rows):
            if row[3]:
                one = self.lib.llama_get_logits_ith(self.context, i)
                found.append(int(np.ctypeslib.as_array(one, (self.width,)).argmax()))
        self.lib.llama_batch_free.argtypes = [type(batch)]
        self.lib.llama_batch_free(batch)
        return found

    def generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, float]:
        """Answer prompts side by side -> seconds to each one's first token, and in all."""
        began = time.perf_counter()
        last = []
        for sequence, ids in enumerate(prompts):
            end = len(ids) - 1
            last += self.decode([(t, i, sequence, i == end) for i, t in enumerate(ids)])
        first = time.perf_counter() - began
        for n in range(tokens - 1):
            last = self.decode([(t, len(prompts[s]) + n, s, True) for s, t in enumerate(last)])
        return first, time.perf_counter() - began


def main() -> None:
    """Answer a job's file with a file of figures."""
    began = time.perf_counter()
    job = json.loads(Path(sys.argv[1]).read_text())
    llama = Speed(job)
    tokens, prompts = job["tokens"], job["prompts"]
    llama.opened(1, CONTEXT)
    llama.generate(prompts[:1], 1)
    found: dict[str, float] = {"start": time.perf_counter() - began}
    rates = []
    for ids in prompts[: job["repeats"]]:
        llama.opened(1, CONTEXT)
        rates.append(tokens / llama.generate([ids], tokens)[1])
    found["one"] = float(np.median(rates))
    llama.opened(job["streams"], CONTEXT)
    many = prompts[: job["streams"]]
    found["many"] = len(many) * tokens / llama.generate(many, tokens)[1]
    seconds = []
    for _ in range(3):
        llama.opened(1, LONG_CONTEXT)
        seconds.append(llama.generate([job["long"]], 1)[0])
    found["prefill"] = len(job["long"]) / float(np.median(seconds))
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
