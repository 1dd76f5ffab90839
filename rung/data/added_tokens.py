"""Added tokens: texts that become one token each, in a copy of a base's tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rung.data import chat_template
from rung.data.template import Template
from rung.errors import DataError, one_line

MAX_ADDED = 1024  # tokens
MAX_CHARACTERS = 256  # of a token


def misspelt(texts: Iterable[str]) -> str | None:
    """Say what is wrong with texts that are to become tokens; None where nothing is."""
    told, texts = [], list(texts)
    if len(texts) > MAX_ADDED:
        told.append(f"names {len(texts)} tokens, must be at most {MAX_ADDED}")
    for text in texts:
        if not text.strip() or text != text.strip():
            told.append(f"holds {text!r}: a token is a text without blanks around it")
        elif len(text) > MAX_CHARACTERS:
            told.append(f"holds a token of {len(text)} characters, must be at most {MAX_CHARACTERS}")
        elif any(0xD800 <= ord(c) < 0xE000 for c in text):
            told.append(f"holds {ascii(text)}, which is no text that can be encoded")
    return one_line(told) if told else None


def added_to(template: Template, texts: Iterable[str]) -> tuple[Template, list[str]]:
    """Give a template tokens of its own, in a copy of its tokenizer.

    Returns:
        the template, which knows their ids as `added`, and those texts that are tokens already.

    Raises:
        DataError: where the tokenizer cannot have them.
    """
    tokenizer, ids, known = extended(template.tokenizer, texts)
    if not ids:
        return template, known
    made = Template.of(tokenizer, stop=template.stop_ids)
    if template.calls is None:
        made = replace(made, calls=None)
    return replace(made, settings=template.settings, added={**template.added, **ids}), known


def extended(tokenizer: Any, texts: Iterable[str]) -> tuple[Any, dict[str, int], list[str]]:
    """Add tokens to a copy of a fast tokenizer.

    Those that the chat template writes around messages become special tokens: no content can write
    them, and answers are shown without them. Contents may hold any other, and answers show it.

    Returns:
        the copy; the added tokens with their ids, `{text: id}`; and texts that are tokens already.

    Raises:
        DataError: when the tokenizer does not encode an added text as its token, or decodes it to
            another text, as byte-level ones do with accented letters.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    texts = list(dict.fromkeys(texts))
    fresh = [text for text in texts if text not in known]
    there = [text for text in texts if text in known]
    if not fresh:
        return tokenizer, {}, there
    made = copy.deepcopy(tokenizer)
    written = chat_template.scaffold(made)
    for text in fresh:
        special = chat_template.marks(text, written)
        made.add_tokens([AddedToken(text, special=special, normalized=False)], special_tokens=special)
    ids = {text: int(made.convert_tokens_to_ids(text)) for text in fresh}
    for text, number in ids.items():
        found = made(text, add_special_tokens=False)["input_ids"]
        if found[-1:] != [number]:
            raise DataError(
                f"the tokenizer reads '{text}' as other tokens even when it is added: leave it out of "
                "--add-tokens"
            )
        shown = made.decode([number], clean_up_tokenization_spaces=False)
        if shown.strip() != text:
            raise DataError(
                f"the tokenizer writes '{text}' as {shown!r} in answers when it is added: leave it out "
                "of --add-tokens, or take another spelling"
            )
    return made, ids, there
