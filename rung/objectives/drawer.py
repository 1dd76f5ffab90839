"""Drawing of answers from the weights that are trained, with or without tools.

The engine works on the bank that is trained. After a draw nothing old is left: no key, value or prefix
is kept between two draws, and adapters are arranged for decoding anew each time. Every answer has a
seed of its own, made of the training's, the draw's number and its place.

With tools an answer is a trajectory: the model's calls, which are drawn freely as all that it writes,
what the tools gave, and the reply. Only its own tokens are learnt from. They stay as they were drawn,
whatever the chat template would write in their place; what comes between them is the template's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from rung.engine import Engine, ServedModel
from rung.engine.request import Completion, GenerationRequest
from rung.errors import DataError, Interrupted
from rung.objectives.base import Row, Setting
from rung.tools.agent import Agent
from rung.types import Decoding, Example, Message, Prompt

if TYPE_CHECKING:
    from rung.data import Template

MEMORY = 1 << 44  # bytes, never reached: no draw may depend on how much memory is free
LANES = 64, 128  # answers that are drawn at once: those of a step if so many hold them, else the most


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One answer as it was drawn.

    Attributes:
        ids: its tokens, the ones that end a turn among them; of an agent also what stands between its
            turns, what its tools gave.
        own: which of the ids the model has drawn.
        logprobs: (n,), of the distribution that each of its own n tokens was drawn from.
        text: what it says in the end, without calls.
        truncated: it was cut off at the limit of tokens; else it ended by itself.
        calls: of tools that were answered; None of a model without tools.
    """

    ids: tuple[int, ...]
    own: tuple[bool, ...]
    logprobs: np.ndarray
    text: str
    truncated: bool
    calls: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens the model has drawn."""
        return len(self.logprobs)


@dataclass
class Lane:
    """One answer that is being drawn.

    Attributes:
        seed: of this answer. prompt: ids in front of it.
        asked: the conversation up to it. turns: calls and results so far.
    """

    seed: tuple[int, ...]
    prompt: tuple[int, ...]
    asked: tuple[Message, ...]
    agent: Agent | None
    turns: list[Message] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    steps: int = 0
    text: str = ""
    truncated: bool = False

    @classmethod
    def of(cls, row: Row, seed: tuple[int, ...]) -> Lane:
        tools = row.extra.get("tools", ())
        return cls(
            seed, tuple(row.ids.tolist()), row.extra["prompt"], Agent.of(tools) if tools else None
        )

    def request(self, name: str, decoding: Decoding) -> GenerationRequest:
        """Ask for the next turn."""
        seed = (*self.seed, self.steps) if self.steps else self.seed
        return GenerationRequest(
            name, Prompt((*self.prompt, *self.ids)), _seeded(decoding, seed), logprobs=0, as_drawn=True
        )

    def take(self, completion: Completion, template: Template, room: int) -> bool:
        """Add a turn, and what tools answer to its calls -> whether the model is to go on.

        Args:
            room: ids that prompt and answer may have in front of a turn.
        """
        self._add(completion.ids, own=True)
        self.logprobs += [t.logprob for t in completion.tokens if t.logprob is not None]
        self.text, self.truncated = completion.text, completion.finish_reason == "length"
        if self.agent is None:
            return False
        said, heard = template.canonical(completion.text, self.agent.names), None
        if not self.truncated:
            heard = self.agent.follow([*self.asked, *self.turns], said)
        if heard is None:
            self.text = self.agent.answer(said)
            return False
        between = _between(template, self.agent, [*self.asked, *self.turns], heard)
        self.steps, self.turns = self.steps + 1, [*self.turns, *heard]
        if len(self.prompt) + len(self.ids) + len(between) > room:
            self.text, self.truncated = "", True  # no room is left for a reply
            return False
        self._add(between, own=False)
        return True

    def _add(self, ids: Sequence[int], own: bool) -> None:
        self.ids += ids
        self.own += [own] * len(ids)

    def drawn(self) -> Drawn:
        return Drawn(
            ids=tuple(self.ids), own=tuple(self.own), text=self.text, truncated=self.truncated,
            logprobs=np.array(self.logprobs, dtype=np.float64),
            calls=None if self.agent is None else sum(bool(m.get("result")) for m in self.turns),
        )  # fmt: skip


def _between(
    template: Template, agent: Agent, before: Sequence[Message], heard: Sequence[Message]
) -> list[int]:
    """The ids from the end of a turn that made calls to the beginning of the next one.

    Raises:
        DataError: for a chat template that writes earlier turns otherwise once more have come.
    """
    called = template.render(Example(tuple(agent.messages([*before, heard[0]]))))
    end = len(called.supervised) - called.supervised[::-1].index(True)
    whole = template.prompt(agent.messages([*before, *heard]))
    if tuple(whole[:end]) != called.ids[:end]:
        raise DataError(
            "the chat template writes a call otherwise once its result has come, so calls cannot be "
            "learnt while they are made: take another --chat-template, or leave --tools out"
        )
    return whole[end:]


class Drawer:
    """Draws answers from a slot of the bank that is trained.

    Args:
        answers: to each prompt of a step. It decides with the prompts of the first step, which has the
            most, how many lanes there are: few can go by compiled steps, and lay out no weights anew.
    """

    def __init__(self, setting: Setting, answers: int):
        self.bank, self.template, self.stopping = setting.bank, setting.template, setting.stopping
        drawn = len(setting.shuffled.rows(0)) * answers
        self.lanes = next((n for n in LANES if drawn <= n), LANES[-1])
        self._engine: Engine | None = None

    def draw(
        self, prompts: Sequence[Row], slot: int, answers: int, decoding: Decoding, seed: tuple[int, ...]
    ) -> list[list[Drawn]]:
        """Draw so many answers to each prompt, which is computed once for all of them.

        Raises:
            Interrupted: when asked to stop. DataError: see `_between`.
        """
        engine, name = self._engine_of(slot)
        room = self.bank.context - self.bank.positions(slot) - decoding.max_tokens
        lanes = [Lane.of(row, (*seed, i, k)) for i, row in enumerate(prompts) for k in range(answers)]
        trained = [t for t in self._parameters(slot) if t.requires_grad]
        for tensor in trained:  # what is being trained is not arranged for decoding
            tensor.requires_grad_(False)
        engine.scheduler.runner.reset()
        left = lanes
        try:
            while left:
                found = engine.generate(
                    [lane.request(name, decoding) for lane in left], stopping=self.stopping,
                    remember=any(lane.agent for lane in left),  # of one draw alone
                )  # fmt: skip
                both = list(zip(left, found, strict=True))
                left = [lane for lane, one in both if self._take(lane, one, room)]
        finally:
            engine.scheduler.runner.reset()
            for tensor in trained:
                tensor.requires_grad_(True)
        drawn = [lane.drawn() for lane in lanes]
        return [drawn[i : i + answers] for i in range(0, len(drawn), answers)]

    def _take(self, lane: Lane, completion: Completion, room: int) -> bool:
        if lane.agent is not None and self.stopping():  # tools of many lanes may take minutes
            raise Interrupted
        return lane.take(completion, self.template, room)

    def _engine_of(self, slot: int) -> tuple[Engine, str]:
        """The engine, and the name of a slot in it."""
        model, engine = ServedModel.of(f"slot {slot}", slot, self.template), self.prepare()
        if model.name not in engine.models:
            engine.load(model)
        return engine, model.name

    def prepare(self) -> Engine:
        """Arrange the base for drawing, once: from then on training computes with what is arranged."""
        if self._engine is None:
            self.bank.compute_as_in_training()
            self._engine = Engine(self.bank, {}, self.lanes, max_waiting=1 << 20, memory=MEMORY)
            self._engine.arrange()
        return self._engine

    def _parameters(self, slot: int) -> list[Tensor]:
        adapter = self.bank.adapters.get(slot)
        return [] if adapter is None else list(adapter.parameters().values())


def _seeded(decoding: Decoding, seed: tuple[int, ...]) -> Decoding:
    digest = hashlib.blake2b(repr(seed).encode(), digest_size=8).digest()
    return replace(decoding, seed=int.from_bytes(digest) >> 1)
