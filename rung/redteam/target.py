"""The attacked model: conversations through the engine, in waves, with answers kept for resuming."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.artefacts import folders
from rung.errors import Interrupted
from rung.redteam.attacks import Attack
from rung.redteam.knobs import RedteamKnobs
from rung.types import Message

if TYPE_CHECKING:
    from rung.engine import Engine, GenerationRequest

MAX_WAVE = 16  # conversations that are held at once; what is kept is kept by waves
ANSWERS = "answers.jsonl"  # in the folder that the user names


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One conversation to hold: a prompt under a transformation, or a harmless look-alike.

    Attributes:
        turns: what the user says in it.
    """

    attack: Attack
    transform: str
    turns: tuple[str, ...]
    harmless: bool = False


@dataclass(frozen=True)
class Answered:
    """An attempt, and what the model said, one reply for each turn; none where it did not fit."""

    attempt: Attempt
    replies: tuple[str, ...]

    @property
    def text(self) -> str:
        """The last reply."""
        return self.replies[-1] if self.replies else ""

    def messages(self, system: str | None) -> list[Message]:
        """The conversation up to the last reply, which is left out."""
        return _messages(self.attempt.turns, self.replies[:-1], system)


class Target:
    """A model that is attacked.

    Args:
        name: a model of the store, or a base. loading: `dtype`, `device`, `quantize`.
        folder: where answers are kept, so that the same run goes on; None: nowhere.

    Raises:
        ModelNotFound, ArtefactError, ConfigError: as `rung.models.load`.
    """

    def __init__(self, name: str, knobs: RedteamKnobs, folder: Path | None, loading: dict[str, object]):
        from rung.models import find_model, load_engine
        from rung.store import Store

        with Store.open() as store:
            found = find_model(store, name)
        own = ""
        if found.folder is not None and (found.folder / folders.MANIFEST).is_file():
            own = folders.sha256(found.folder / folders.MANIFEST)
        computed = [loading.get(k) for k in ("dtype", "quantize")]
        self.digest = f"{found.base.digest}{own}{computed}"
        self.name, self.knobs = name, knobs
        self.engine: Engine = load_engine([name], **loading)  # type: ignore[arg-type]
        self._path = None if folder is None else folder / ANSWERS
        self._kept = dict(_read(self._path)) if self._path else {}

    def answer(self, attempts: Sequence[Attempt], deadline: float) -> Iterator[Answered]:
        """Hold conversations in their order, until the deadline of `time.monotonic`."""
        for at in range(0, len(attempts), MAX_WAVE):
            if time.monotonic() >= deadline:
                return
            try:
                yield from self._wave(attempts[at : at + MAX_WAVE], deadline)
            except Interrupted:
                return

    def _wave(self, wave: Sequence[Attempt], deadline: float) -> list[Answered]:
        said = {i: self._kept[k] for i, one in enumerate(wave) if (k := self._key(one)) in self._kept}
        fresh = [i for i in range(len(wave)) if i not in said]
        replies: dict[int, tuple[str, ...]] = {i: () for i in fresh}
        for turn in range(max((len(wave[i].turns) for i in fresh), default=0)):
            going = [i for i in fresh if len(wave[i].turns) > turn == len(replies[i])]
            requests = {i: self._request(wave[i], replies[i]) for i in going}
            asked = {i: r for i, r in requests.items() if r is not None}
            answers = self.engine.generate(
                list(asked.values()), stopping=lambda: time.monotonic() >= deadline, remember=True
            )
            for i, one in zip(asked, answers, strict=True):
                replies[i] = (*replies[i], one.text)
        for i in fresh:
            whole = len(replies[i]) == len(wave[i].turns)
            said[i] = replies[i] if whole else ()
            self._keep(self._key(wave[i]), said[i])
        return [Answered(one, said[i]) for i, one in enumerate(wave)]

    def _request(self, attempt: Attempt, replies: tuple[str, ...]) -> GenerationRequest | None:
        """The request for the next reply; None where the conversation fills the context."""
        from rung.engine import GenerationRequest
        from rung.engine.labels import labels_only

        model, knobs = self.engine.model(self.name), self.knobs
        turns = attempt.turns[: len(replies) + 1]
        prompt = model.prompt(_messages(turns, replies, knobs.system))
        room = self.engine.room(self.name, len(prompt.ids))
        if room < 1:
            return None
        decoding = dataclasses.replace(
            model.decoding, max_tokens=min(knobs.max_tokens, room), temperature=knobs.temperature,
            seed=knobs.seed,
        )  # fmt: skip
        return GenerationRequest(
            self.name, prompt, decoding, constraint=labels_only(self.engine, self.name)
        )

    def _key(self, attempt: Attempt) -> str:
        """The SHA-256 of all that an answer depends on."""
        k = self.knobs
        said = [self.digest, k.system, attempt.turns, k.temperature, k.max_tokens, k.seed]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _keep(self, key: str, replies: tuple[str, ...]) -> None:
        self._kept[key] = replies
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "replies": replies}, ensure_ascii=False) + "\n")


def _messages(turns: Sequence[str], replies: Sequence[str], system: str | None) -> list[Message]:
    found: list[Message] = [{"role": "system", "content": system}] if system else []
    for i, text in enumerate(turns):
        found.append({"role": "user", "content": text})
        if i < len(replies):
            found.append({"role": "assistant", "content": replies[i]})
    return found


def _read(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Kept answers; a last line that was cut off by a kill is left out, and is asked again."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    # Only this ends a line: a reply may hold U+2028 and its like.
    for line in whole.split(b"\n")[:-1]:
        one = json.loads(line)
        yield one["key"], tuple(one["replies"])
