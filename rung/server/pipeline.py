"""One request's way through the stages of its model, and what happened to it on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request

from rung.engine import Completion
from rung.engine.constraint import Constraint
from rung.forward.sight import Sight
from rung.server.errors import ApiError
from rung.server.moderation import Verdict
from rung.server.stages import Pipeline
from rung.server.state import account_of, service_of
from rung.types import Message, last_question


class PipelineRun:
    """The stages of one request, in the order in which they are called.

    Args:
        pipeline: the stages of its model. traced: the client asked for a trace.

    Attributes:
        notes: what each stage did, with its seconds.

    Raises:
        ApiError: for a trace where the model's stages allow none.
    """

    def __init__(self, pipeline: Pipeline, traced: bool = False):
        self._pipeline, self.traced = pipeline, traced
        self._began = time.perf_counter()
        self.notes: list[dict[str, Any]] = []
        if traced and not pipeline.stages.trace:
            raise ApiError("this server gives no trace of the model's requests", param="trace")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Note a stage; what it adds to the mapping is told too."""
        note: dict[str, Any] = {"stage": name}
        began = time.perf_counter()
        try:
            yield note
        finally:
            note["seconds"] = round(time.perf_counter() - began, 5)
            self.notes.append(note)

    @property
    def reads(self) -> bool:
        """Whether `check` looks at what it is given."""
        pipeline = self._pipeline
        return bool(pipeline.stages.max_characters or pipeline.patterns or pipeline.judges_requests)

    async def check(self, texts: Sequence[str], unjudged: Sequence[str] = ()) -> None:
        """What a client says, before anything is computed for it.

        Args:
            unjudged: what it says that a model answered before: checked, and not moderated again.

        Raises:
            ApiError: code `request_refused` or `content_filter`.
        """
        pipeline = self._pipeline
        most = pipeline.stages.max_characters
        if most is not None or pipeline.patterns:
            with self.stage("checks") as note:
                said = [*texts, *unjudged]
                note["characters"] = count = sum(map(len, said))
                if most is not None and count > most:
                    told = f"the request has {count} characters, this model takes {most}"
                    raise ApiError(told, code="request_refused")
                if await run_sync(self._finds, said):
                    raise ApiError("a check of this server refuses the request", code="request_refused")
        if not pipeline.judges_requests:
            return
        verdicts = await self._judged("moderation of the request", [t for t in texts if t])
        if any(v.flagged for v in verdicts):
            told = "the moderation of this server refuses the request"
            raise ApiError(told, code="content_filter")

    def _finds(self, texts: Sequence[str]) -> bool:
        return any(pattern.search(text) for pattern in self._pipeline.patterns for text in texts)

    def messages(self, turns: Sequence[Message]) -> list[Message]:
        """The conversation that the model's template gets."""
        pipeline, found = self._pipeline, list(turns)
        if pipeline.stages.system is not None and all(t["role"] != "system" for t in found):
            with self.stage("system message"):
                found.insert(0, {"role": "system", "content": pipeline.stages.system})
        if pipeline.retrieved is None:
            return found
        with self.stage("retrieval") as note:
            if self.traced:
                note["passages"] = self._passages(found)
            return pipeline.retrieved.messages(found)

    def _passages(self, turns: Sequence[Message]) -> list[dict[str, Any]]:
        """What is found for the last question, as a trace shows it."""
        retrieved = self._pipeline.retrieved
        assert retrieved is not None and retrieved.index is not None
        question = last_question(turns)
        hits = retrieved.index.search(question, retrieved.count, retrieved.mode) if question else []
        return [
            {"source": h.passage.source, "number": h.passage.number, "score": round(h.score, 4)}
            for h in hits
        ]

    def pictures(self, sight: Sight | None, turns: Sequence[Message]) -> None:
        """Encode what a conversation shows, before it waits for its turn; what is known is not encoded.

        Raises:
            RungError: for a picture that cannot be read.
        """
        if sight is None or not any(turn.get("pictures") for turn in turns):
            return
        with self.stage("pictures") as note:
            note["shown"], note["encoded"] = sight.look(turns)

    @property
    def judges_answers(self) -> bool:
        return self._pipeline.judges_answers

    async def judge(self, completions: Sequence[Completion]) -> list[Completion]:
        """The answers, those empty that the moderation flags."""
        verdicts = await self._judged("moderation of the answer", [c.text for c in completions])
        kept: list[Any] = []
        for completion, verdict in zip(completions, verdicts, strict=True):
            if verdict.flagged:
                gone: dict[str, Any] = {"text": "", "tokens": (), "finish_reason": "content_filter"}
                completion = dataclasses.replace(completion, **gone)
            kept.append(completion)
        return kept

    async def _judged(self, name: str, texts: Sequence[str]) -> list[Verdict]:
        moderator = self._pipeline.moderator
        assert moderator is not None
        with self.stage(name) as note:
            verdicts = await moderator.judge(texts)
            note["by"], note["flagged"] = moderator.name, [v.flagged for v in verdicts]
            note["scores"] = [v.scores for v in verdicts]
        return verdicts

    def told(
        self,
        texts: Sequence[str],
        prompts: Sequence[Sequence[int]],
        constraint: Constraint | None,
        found: Sequence[Completion],
    ) -> dict[str, Any]:
        """Trace a request: what the model saw, what each stage did, how long it took.

        Args:
            texts, prompts: what the model saw, as text and as ids.
        """
        return {
            "stages": self.notes,
            "prompts": list(texts),
            "prompt_ids": [list(ids) for ids in prompts],
            "cached_tokens": sum(c.cached_tokens for c in found),
            "constraint": constraint.kind if constraint else None,
            "labels": [dict(c.labels) for c in found if c.labels] or None,
            "seconds": round(time.perf_counter() - self._began, 4),
        }


def begin_pipeline(request: Request, name: str, traced: bool = False) -> PipelineRun:
    """Begin the pipeline of a request to a model, and note it for the log.

    Raises:
        ApiError: for a trace that the key does not open, or that the stages do not allow.
    """
    if traced:
        account_of(request).needs("trace")
    service = service_of(request)
    found = PipelineRun(service.pipelines.of(name, service.catalogue.stored_name(name)), traced)
    request.scope["rung.notes"] = found.notes
    return found
