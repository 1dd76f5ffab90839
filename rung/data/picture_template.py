"""The template of bases that read pictures: one token for each picture, and no text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rung.data.problem import Problem
from rung.data.template import Template
from rung.errors import DataError
from rung.types import Example, Message, Rendered

PICTURE = 0  # the token that stands for a picture


class NoTokens:
    """The encoder of a vocabulary without words: every text is empty."""

    def encode(self, text: str, cuts: Sequence[int] = (), begins: bool = True) -> tuple[list, list]:
        return [], []


@dataclass(frozen=True)
class PictureTemplate(Template):
    """Prompts of pictures. What pictures are prepared by, `settings`, is kept beside a model."""

    writes: ClassVar[bool] = False

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], **_: Any) -> PictureTemplate:  # type: ignore[override]
        """For a base whose pictures are prepared by these numbers."""
        return cls(
            tokenizer=None, stop_ids=(PICTURE,), end_of_turn="", chat=True, folds_system=False,
            shows_reasoning=False, adds_bos=False, encoder=NoTokens(), settings=preprocessing,  # type: ignore[arg-type]
        )  # fmt: skip

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """One token for each picture of a conversation.

        Raises:
            DataError: when it has none.
        """
        count = sum(len(m.get("pictures", ())) for m in messages)
        if not count:
            raise DataError("this base reads pictures, and there is none: send one")
        return [PICTURE] * count

    def encode(self, text: str) -> list[int]:
        raise DataError("this base reads pictures and no text: send a picture, or use another base")

    def render(self, example: Example, max_length: int | None = None) -> Rendered:
        ids = tuple(self.prompt(example.messages))
        return Rendered(ids, (False,) * len(ids), example.origin)

    def render_all(
        self, examples: Iterable[Example], max_length: int | None = None
    ) -> tuple[list[Rendered], list[Problem]]:
        """Every row with a picture, and an error that counts the others."""
        rows = list(examples)
        kept = [e for e in rows if any(m.get("pictures") for m in e.messages)]
        problems = []
        if len(kept) < len(rows):
            told = f"{len(rows) - len(kept)} rows have no picture, and this base reads nothing else"
            problems.append(Problem("error", told))
        return [self.render(e) for e in kept], problems

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    @property
    def tokenizer_digest(self) -> str:  # type: ignore[override]
        return self.fingerprint

    @property
    def shows_tools(self) -> bool:
        return False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the preprocessing: equal means that pictures are prepared alike."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the preprocessing, so that a model says by itself how its pictures were prepared."""
        path = Path(folder) / "preprocessing.json"
        path.write_text(json.dumps(self.settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
