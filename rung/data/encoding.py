"""Text to token ids, so that content can never forge a turn.

A chat template mixes its own markers with what people wrote. Both become one string, and a tokenizer
cannot tell which `<|im_start|>` the template wrote. Here marker look-alikes in content are hidden
behind private-use characters before the template runs, and afterwards encoded as plain text: the
text is cut inside each look-alike, so no piece holds the whole marker. Content without look-alikes
gives exactly the ids that `apply_chat_template(tokenize=True)` gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rung.errors import DataError

# Two planes of private-use characters: no template and hardly any content uses them, and those that
# a conversation does use are left out.
FIRST_STAND_IN = 0x100000
PICTURE_MARK = "\U000ffffd"  # where a picture stands; content that holds it loses it


def clean(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes; each becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def texts_of(value: Any) -> Iterator[str]:
    """Every text in plain data, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_of(key)
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same plain data with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {mapped(k, change): mapped(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(item, change) for item in value]
    return value


class Disguise:
    """Stand-in characters for the markers that occur in one conversation's content."""

    def __init__(self, markers: re.Pattern[str] | None, texts: Iterable[str]) -> None:
        whole = "\0".join(texts)
        found = sorted(set(markers.findall(whole))) if markers else []
        self._markers = markers if found else None
        self._stand_ins: dict[str, str] = {}
        code = FIRST_STAND_IN
        for marker in found:
            while chr(code) in whole:
                code += 1
            self._stand_ins[marker] = chr(code)
            code += 1
        self._originals = {c: marker for marker, c in self._stand_ins.items()}
        self.pictures: list[range] = []  # ids of each picture, in the order of their marks

    def hide(self, text: str) -> str:
        """The text with every marker look-alike as one stand-in character."""
        if self._markers is None:
            return text
        return self._markers.sub(lambda match: self._stand_ins[match[0]], text)

    def reveal(self, text: str) -> tuple[str, list[int]]:
        """The text as it was written, and where it must be cut to keep the look-alikes plain."""
        if not self._originals:
            return text, []
        parts, cuts, length = [], [], 0
        for char in text:
            original = self._originals.get(char)
            if original is not None:
                cuts.append(length + 1)
            parts.append(original or char)
            length += len(parts[-1])
        return "".join(parts), cuts


class Encoder:
    """A fast tokenizer, guarded: only markers that were written as such become markers.

    Args:
        tokenizer: a Hugging Face tokenizer with offsets (a "fast" one).
        markers: the guarded tokens, `{text: id}`.

    Raises:
        DataError: when the tokenizer cannot give offsets.
    """

    def __init__(self, tokenizer: Any, markers: Mapping[str, int]) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json; "
                "convert it with transformers' convert_slow_tokenizer first"
            )
        self._tokenizer = tokenizer
        self._texts = {number: text for text, number in markers.items()}
        # An unknown word is not a forged marker, even where the unknown token is one.
        self._texts.pop(tokenizer.unk_token_id, None)
        longest_first = sorted((m for m in markers if m), key=len, reverse=True)
        alternatives = "|".join(re.escape(m) for m in longest_first)
        self.pattern = re.compile(alternatives) if alternatives else None
        # SentencePiece-like tokenizers put a space in front of whatever they are given.
        probe = tokenizer.convert_ids_to_tokens(self._tokenise("a")[0][:1])
        self._prepends = bool(probe) and probe[0][:1] in ("▁", "Ġ")

    def disguise(self, texts: Iterable[str]) -> Disguise:
        return Disguise(self.pattern, texts)

    def encode(self, text: str, cuts: Iterable[int] = (), *, begins: bool = True):
        """Ids and the offset where each starts in `text`.

        Args:
            text: what to encode; markers in it are markers, unless a cut goes through them.
            cuts: offsets that no token may span.
            begins: whether the text begins the sequence; if not, no space is put in front of it.
        """
        places = set(cuts)
        while True:
            ids, starts, forged = self._pieces(text, sorted(places), begins)
            if not forged - places:
                return ids, starts
            places |= forged

    def _pieces(self, text: str, cuts: list[int], begins: bool):
        """Encode between cuts; also where a marker appeared that the text does not spell.

        That happens by normalisation (a full-width `＜s＞`) or when the vocabulary holds the marker
        as an ordinary piece.
        """
        ids: list[int] = []
        starts: list[int] = []
        forged: set[int] = set()
        edges = [0, *cuts, len(text)]
        for low, high in zip(edges, edges[1:], strict=False):
            piece = text[low:high]
            for number, (a, b) in zip(*self._tokenise_at(piece, begins and low == 0), strict=True):
                marker = self._texts.get(number)
                if marker is not None and piece[a:b].strip() != marker:
                    if b - a > 1:
                        forged.add(low + a + 1)
                    continue  # a single character cannot be cut: it is left out
                ids.append(number)
                starts.append(low + a)
        return ids, starts, forged

    def _tokenise_at(self, text: str, begins: bool):
        if begins or not self._prepends or not text:
            return self._tokenise(text)
        # A newline in front takes the prepended space, and is dropped again.
        ids, spans = self._tokenise("\n" + text)
        if any(a < 1 < b for a, b in spans):
            return self._tokenise(text)
        kept = [(i, (a - 1, b - 1)) for i, (a, b) in zip(ids, spans, strict=True) if b > 1]
        return [i for i, _ in kept], [span for _, span in kept]

    def _tokenise(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if not text:
            return [], []
        out = self._tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return out["input_ids"], out["offset_mapping"]
