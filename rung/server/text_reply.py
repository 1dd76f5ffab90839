"""Plain completions as OpenAI writes them: echo, the best of several, log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rung.engine import Completion, Token
from rung.server.generation import Reply, finish_reason
from rung.server.logprobs import TokenLogprobs


class TextReply(Reply):
    """A reply of one request for plain completions.

    Set before it is used:
        pieces, logprobs: where log-probabilities were asked for, and how many beside the token's own.
        echoes: the prompts as texts, where they come back in front of the answers.
        n, best_of: how many answers of those to each prompt the client gets.
    """

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"
    pieces: TokenLogprobs | None = None
    logprobs = 0
    echoes: Sequence[str] = ()
    n = best_of = 1

    def chosen(self, completions: Sequence[Completion]) -> Sequence[Completion]:
        if self.best_of == self.n:
            return completions
        kept: list[Completion] = []
        for first in range(0, len(completions), self.best_of):
            group = sorted(completions[first : first + self.best_of], key=_mean, reverse=True)
            kept += group[: self.n]
        return kept

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        echo = self.echoes[index // self.n] if self.echoes else ""
        told = None
        if self.pieces is not None:
            tokens = [*(completion.prompt if self.echoes else ()), *completion.tokens]
            told = self.pieces.plain(tokens, self.logprobs)
        return {
            "text": echo + completion.text,
            "index": index,
            "logprobs": told,
            "finish_reason": finish_reason(completion),
        }

    def delta(self, index: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        text = "".join(t.text for t in tokens)
        if self.pieces is not None:
            offsets: dict[int, int] = self.__dict__.setdefault("_offsets", {})
            told = self.pieces.plain(tokens, self.logprobs, offsets.get(index, 0))
            offsets[index] = offsets.get(index, 0) + sum(map(len, told["tokens"]))
            return self._piece(index, text, told)
        return self._piece(index, text) if text else None

    def closing(self, index: int, completion: Completion) -> Iterable[dict[str, Any]]:
        yield self._piece(index, "", None, finish_reason(completion))

    @staticmethod
    def _piece(
        index: int, text: str, told: dict[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": told, "finish_reason": reason}


def _mean(completion: Completion) -> float:
    """The mean log-probability of what was drawn."""
    told = [t.logprob for t in completion.tokens if t.logprob is not None]
    return sum(told) / len(told) if told else float("-inf")
