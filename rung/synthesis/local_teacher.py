"""Local teacher: a model of the store or a base, asked in waves through the engine.

A wave is answered and kept as a whole: the answers of a batch can differ in the last bits with the
batch, so that a wave which was killed is drawn again as it was, and a data set has the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rung.artefacts import folders
from rung.store import Store
from rung.synthesis import cache
from rung.synthesis.teacher import Answer, Question, Teacher
from rung.types import Decoding

if TYPE_CHECKING:
    from rung.engine import Engine, GenerationRequest

MAX_WAVE = 64  # maximum number of questions that are drawn and kept together
CACHE_BYTES = 2 << 30  # for keys and values: fixed, since batches follow from it


class LocalTeacher(Teacher):
    """A model of the store or a base; loaded when it is first asked something new.

    Args:
        name: what rows call it. spec: where it is found, unless that is its name.

    Raises:
        ModelNotFound: when the name is neither a model nor a base.
    """

    def __init__(self, name: str, spec: str | None = None):
        from rung.models import find_model

        super().__init__()
        self.name, self._spec = name, spec or name
        with Store.open() as store:
            found = find_model(store, self._spec)
            if found.record is None:
                self.licence, self.licence_class = found.base.licence, found.base.licence_class
            else:
                self.licence = found.base.licence
                self.licence_class = store.licence(self._spec)[0]
        own = "" if found.record is None else _manifest(Path(found.record.folder))
        self.digest = f"{found.base.digest}{own}"
        self._engine: Engine | None = None

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        answers: list[Answer] = []
        for at in range(0, len(questions), MAX_WAVE):
            wave = questions[at : at + MAX_WAVE]
            key = cache.key_of([q.digest(self.digest) for q in wave])
            found = cache.read(key)
            if found is None or len(found) != len(wave):
                found = self._draw(wave)
                cache.write(key, found)
            else:
                self.usage.kept += len(found)
            answers += found
        return answers

    def close(self) -> None:
        self._engine = None

    def _draw(self, wave: Sequence[Question]) -> list[Answer]:
        engine = self._loaded()
        done = engine.generate([self._request(engine, question) for question in wave])
        for one in done:
            self.usage.prompt_tokens += one.prompt_tokens
            self.usage.completion_tokens += one.completion_tokens
        return [
            Answer(one.text, one.finish_reason, one.prompt_tokens, one.completion_tokens)
            for one in done
        ]

    def _request(self, engine: Engine, question: Question) -> GenerationRequest:
        from rung.engine import GenerationRequest

        model = engine.model(self._spec)
        prompt = model.prompt(question.messages)
        room = engine.room(self._spec, len(prompt.ids))
        schema = question.schema
        return GenerationRequest(
            self._spec,
            prompt,
            Decoding(
                max_tokens=max(1, min(question.max_tokens, room)),
                temperature=question.temperature,
                top_p=question.top_p,
                seed=question.seed,
            ),
            constraint=None if schema is None else engine.constraint(self._spec, "json_schema", schema),
        )

    def _loaded(self) -> Engine:
        if self._engine is None:
            from rung.models import load_engine

            self._engine = load_engine([self._spec], max_batch=MAX_WAVE, memory=CACHE_BYTES)
            self._engine.arrange()
        return self._engine


def _manifest(folder: Path) -> str:
    path = folder / folders.MANIFEST
    return folders.sha256(path) if path.is_file() else ""
