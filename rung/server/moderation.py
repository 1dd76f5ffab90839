"""Moderation: whether a text or a picture is harmful, by a classifier of the engine or any callable.

A classifier that `linear_probe` trained answers with a label for each text. A label that is one of
OpenAI's 13 categories counts as that category, `safe`, `ok`, `none`, `neutral`, `0` and the like as
none of them, and any other label as flagged without a category.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.engine import Engine
from rung.engine.request import GenerationRequest
from rung.errors import ConfigError
from rung.server.errors import ApiError
from rung.server.streaming import Answers
from rung.types import Decoding, Message

CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
    "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence",
    "violence/graphic",
)  # fmt: skip
HARMLESS = frozenset(
    {"safe", "ok", "none", "neutral", "harmless", "benign", "clean", "no", "0", "false", "not_flagged"}
)
THRESHOLD = 0.5

# A text -> the probability of each label.
Judge = Callable[[str], Mapping[str, float]]


@dataclass
class Verdict:
    """What was found in a text."""

    flagged: bool
    scores: dict[str, float] = field(default_factory=dict)  # by category
    kind: str = "text"  # or image

    def shown(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        return {
            "flagged": self.flagged,
            "categories": {c: self.scores.get(c, 0.0) >= THRESHOLD for c in CATEGORIES},
            "category_scores": {c: self.scores.get(c, 0.0) for c in CATEGORIES},
            "category_applied_input_types": {c: [self.kind] for c in CATEGORIES},
        }


class Moderator:
    """Judges texts.

    Args:
        engine: serves the classifier.
        judge: the name of a served classifier, or a callable; None judges nothing.

    Raises:
        ConfigError: for a model that is no classifier.
    """

    def __init__(self, engine: Engine, judge: str | Judge | None = None):
        self._engine, self._judge = engine, judge
        if isinstance(judge, str) and not engine.model(judge).labels:
            raise ConfigError(
                f"'{judge}' generates text: moderation needs a classifier, made with "
                "rung tune --method linear_probe"
            )

    @property
    def name(self) -> str:
        """Who judges."""
        if isinstance(self._judge, str):
            return self._judge
        return getattr(self._judge, "__name__", "rung-moderation")

    @property
    def there(self) -> bool:
        return self._judge is not None

    async def judge(self, asked: Sequence[str | Message]) -> list[Verdict]:
        """A verdict on each text, or message with a picture.

        Raises:
            ApiError: 501 where nothing was set up to judge; 400 for a picture where texts are judged.
        """
        messages: list[Message] = [
            {"role": "user", "content": one} if isinstance(one, str) else one for one in asked
        ]
        if self._judge is None:
            raise ApiError(
                "this server judges no texts: start it with --moderation NAME, a classifier made by "
                "rung tune --method linear_probe",
                status=501, code="moderation_not_configured",
            )  # fmt: skip
        if not isinstance(self._judge, str):
            from anyio.to_thread import run_sync

            judge = self._judge
            if any(m.get("pictures") for m in messages):
                raise ApiError(f"'{self.name}' judges texts, not pictures", param="input")
            return [verdict(await run_sync(judge, m["content"])) for m in messages]
        model = self._engine.model(self._judge)
        requests = [
            GenerationRequest(
                self._judge,
                model.prompt([message]),
                Decoding(max_tokens=1),
            )
            for message in messages
        ]
        found = await Answers(self._engine, requests).completions()
        verdicts = [verdict({label: math.exp(p) for label, p in c.labels}) for c in found]
        for one, message in zip(verdicts, messages, strict=True):
            one.kind = "image" if message.get("pictures") else "text"
        return verdicts


def verdict(labels: Mapping[str, float]) -> Verdict:
    """The probabilities of labels, read as categories."""
    scores: dict[str, float] = {}
    harm = 0.0
    for label, value in labels.items():
        word = label.strip().lower().replace("_", "-")
        if word in HARMLESS or word.replace("-", "_") in HARMLESS:
            continue
        harm += float(value)
        if word in CATEGORIES:
            scores[word] = min(1.0, float(value))
    flagged = harm >= THRESHOLD or any(s >= THRESHOLD for s in scores.values())
    return Verdict(flagged, scores)


def fresh_id() -> str:
    return f"modr-{secrets.token_hex(12)}"
