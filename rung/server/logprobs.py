"""Log-probabilities as clients read them: tokens as text and bytes, in OpenAI's two shapes."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from rung.data import Template
from rung.engine import Token

FLOOR = -9999.0  # OpenAI's figure for what cannot come; JSON knows no infinity
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenLogprobs:
    """What single tokens of a tokenizer stand for."""

    def __init__(self, template: Template):
        self._tokenizer = template.tokenizer
        decoder = getattr(getattr(self._tokenizer, "backend_tokenizer", None), "decoder", None)
        self._byte_level = "ByteLevel" in repr(decoder)

    def text(self, id: int) -> str:
        """The token alone as text; part of a character is the replacement character."""
        return self._tokenizer.decode([id], clean_up_tokenization_spaces=False)

    def bytes(self, id: int) -> list[int]:
        """The bytes of the token, also where they are part of a character."""
        token = self._tokenizer.convert_ids_to_tokens(id) or ""
        if found := BYTE.fullmatch(token):
            return [int(found[1], 16)]
        letters = _letters()
        if self._byte_level and all(c in letters for c in token):
            return [letters[c] for c in token]
        return list(self.text(id).encode())

    def chat(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """`logprobs` of a chat choice."""
        return {"content": [self._told(t) for t in tokens], "refusal": None}

    def _told(self, token: Token) -> dict[str, Any]:
        top = [self._one(id, value) for id, value in token.top]
        return {**self._one(token.id, token.logprob), "top_logprobs": top}

    def _one(self, id: int, value: float | None) -> dict[str, Any]:
        return {"token": self.text(id), "logprob": finite(value), "bytes": self.bytes(id)}

    def plain(self, tokens: Sequence[Token], most: int, offset: int = 0) -> dict[str, Any]:
        """`logprobs` of a plain completion.

        Args:
            most: entries of `top_logprobs` that were asked for; the token itself is always among them.
            offset: where in the text the first token begins.
        """
        texts = [self.text(t.id) for t in tokens]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        top = [self._likeliest(t, most) for t in tokens]
        told = [None if t.logprob is None else finite(t.logprob) for t in tokens]
        return {"text_offset": offsets, "token_logprobs": told, "tokens": texts, "top_logprobs": top}

    def _likeliest(self, token: Token, most: int) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        found: dict[str, float] = {}
        for id, value in (*token.top[:most], (token.id, token.logprob)):
            # Different tokens may read alike; the likelier one speaks for them.
            text = self.text(id)
            found[text] = max(finite(value), found.get(text, FLOOR))
        return found


def finite(value: float | None) -> float:
    """A log-probability that JSON can hold."""
    return FLOOR if value is None or value < FLOOR or value != value else value


@functools.cache
def _letters() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level vocabularies (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [b for b in range(256) if b not in plain]
    known = {chr(b): b for b in plain}
    return known | {chr(256 + i): b for i, b in enumerate(shifted)}
