"""GGUF's vocabulary: tokens, merges or scores, special tokens and the chat template of a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from rung.errors import ConfigError

# How llama.cpp calls what cuts a text before the merges, by the pattern that the tokenizer holds.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {LLAMA3: "llama-bpe", LLAMA3.replace("{1,3}", ""): "qwen2"}
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def write_vocabulary(writer: Any, tokenizer: Any, size: int, stop_ids: Sequence[int]) -> None:
    """Write a tokenizer into a `gguf.GGUFWriter`.

    Args:
        size: rows of the embeddings; ids without a token are filled up.
        stop_ids: what ends a reply, the end of turn first.

    Raises:
        ConfigError: for a tokenizer that llama.cpp has no name for.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise ConfigError(f"a tokenizer of type {model['type']} cannot be written: use --to merged")
    spaced = bool(model.get("byte_fallback"))  # SentencePiece's kind, blanks as U+2581
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    tokens, kinds = _tokens(tokenizer, size)
    writer.add_tokenizer_model("llama" if spaced else "gpt2")
    writer.add_tokenizer_pre("default" if spaced else cutting(described.get("pre_tokenizer")))
    writer.add_token_list(tokens)
    if spaced:
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_adds_blank(described))
    else:
        writer.add_token_merges([" ".join(m) for m in merges])
    writer.add_token_types(kinds)
    _special(writer, tokenizer, stop_ids)
    template = tokenizer.chat_template
    if isinstance(template, str):
        writer.add_chat_template(template)


def cutting(described: Any) -> str:
    """llama.cpp's name of what a tokenizer does before the merges.

    Args:
        described: the `pre_tokenizer` of a tokenizer.json.

    Raises:
        ConfigError: where llama.cpp has no such name, so that it would cut texts otherwise.
    """
    parts = described["pretokenizers"] if described and described["type"] == "Sequence" else [described]
    kinds = [part["type"] if part else "" for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        name = PATTERNS.get(parts[0]["pattern"].get("Regex", ""))
        if name:
            return name
    raise ConfigError(
        "llama.cpp has no name for how this tokenizer cuts a text before its merges: use --to merged "
        "and llama.cpp's own converter"
    )


def _tokens(tokenizer: Any, size: int) -> tuple[list[str], list[int]]:
    """Every token by its id with GGUF's type: normal, unknown, control, user defined, unused, byte."""
    from gguf import TokenType

    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for i in range(size):
        token = by_id.get(i)
        if token is None:
            token, kind = f"[PAD{i}]", TokenType.UNUSED
        elif i in added:
            kind = TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED
            if token == tokenizer.unk_token and not tokenizer.backend_tokenizer.decoder:
                kind = TokenType.UNKNOWN
        else:
            kind = TokenType.BYTE if BYTE.fullmatch(token) else TokenType.NORMAL
        tokens.append(token)
        kinds.append(int(kind))
    return tokens, kinds


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """SentencePiece's scores: the earlier a merge made a token, the higher."""
    rank = {"".join(pair): -float(i) for i, pair in reversed(list(enumerate(merges)))}
    last = -float(len(merges))
    return [rank.get(token, last) for token in tokens]


def _adds_blank(described: dict[str, Any]) -> bool:
    """Whether the tokenizer puts a blank in front of a text."""
    return '"Prepend"' in json.dumps(described.get("normalizer")) or (
        '"prepend_scheme": "first"' in json.dumps(described.get("pre_tokenizer"))
        or '"prepend_scheme": "always"' in json.dumps(described.get("pre_tokenizer"))
    )


def _special(writer: Any, tokenizer: Any, stop_ids: Sequence[int]) -> None:
    for name in ("bos", "eos", "unk", "pad"):
        found = getattr(tokenizer, f"{name}_token_id", None)
        if found is not None:
            getattr(writer, f"add_{name}_token_id")(found)
    if stop_ids:
        writer.add_eot_token_id(stop_ids[0])
    bos = tokenizer.bos_token_id
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(bos is not None and list(first) == [bos])
