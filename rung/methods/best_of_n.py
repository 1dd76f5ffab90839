"""Best of n: several answers are drawn, and the one that a reward scores highest is given (Stiennon et
al., arXiv 2009.01325; Nakano et al., arXiv 2112.09332).

The answers are drawn in one batch behind one reading of the prompt. A reward model of the same base
scores them on the weights that drew them.

    rung tune NAME --method best_of_n --n 8 --reward model:judge --data ...
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from rung import rewards
from rung.config import knob
from rung.data.conversation import Conversation
from rung.errors import ConfigError
from rung.evals import kinds
from rung.methods import base, choice
from rung.methods.workload import Shape, Workload, scoring
from rung.types import Message

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

MAX_ANSWERS = 64  # drawn to one request


@dataclass
class Knobs:
    group: ClassVar[str] = "best_of_n"
    n: int = knob(
        4, "Answers to draw to each request; the best one is given.", least=2, most=MAX_ANSWERS
    )
    reward: list[str] = rewards.specs_knob()
    draw_temperature: float = knob(
        0.8, "How the answers are drawn, where a request does not say.", above=0, most=2
    )
    choose_rows: int | None = choice.choose_rows()


@dataclass(frozen=True)
class Ranked(Conversation):
    """Several answers of which a reward picks one; the conversation itself stays as it is."""

    reward: tuple[str, ...] = ()
    samples: int = 1
    temperature: float = 0.8
    ranks: bool = True

    def rank(self, bank: Bank, asked: Sequence[Message], answers: Sequence[str]) -> int:
        scores = self.score(bank, asked, answers)
        known = [(s, -i) for i, s in enumerate(scores) if s is not None]
        return -max(known)[1] if known else 0  # the first among equals, and where none is scored

    def score(self, bank: Bank, asked: Sequence[Message], answers: Sequence[str]) -> list[float | None]:
        """The reward of each answer to a conversation; None where it was not scored.

        Raises:
            RungError: where a model that scores is gone, or the reward cannot be computed.
        """
        said = [rewards.Answer(prompt=tuple(asked), text=text) for text in answers]
        return rewards.scored(self.made(bank), said)

    def made(self, bank: Bank) -> rewards.Reward:
        """The reward, made once for a bank: scoring models of its base are held there."""
        if self._made.get("bank") is not bank:
            self._made.update(bank=bank, reward=made(self.reward, bank))
        return self._made["reward"]

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    @classmethod
    def read(cls, settings: dict[str, Any]) -> Ranked:
        """From `settings.json`; raises KeyError, TypeError or ValueError."""
        specs, n, heat = settings["reward"], int(settings["n"]), float(settings["temperature"])
        if not isinstance(specs, list) or not 2 <= n <= MAX_ANSWERS or not 0 < heat <= 2:
            raise TypeError("reward, n and temperature")
        return cls(tuple(map(str, specs)), n, heat)


class Method(choice.PromptMethod):
    summary = "the best of several answers by a reward"
    paper = "arXiv 2009.01325"
    Config = Knobs
    rows = 32  # each costs as many answers as are drawn
    speaks = Ranked

    def unsuited(self, task: Any, config: Knobs) -> str | None:
        if kinds.of(task).chooses:
            return "answers are chosen among those offered, not drawn: there is nothing to rank"
        try:
            rewards.check(config.reward)
        except ConfigError as fault:
            return str(fault)
        return super().unsuited(task, config)

    def candidates(self, config: Knobs, shape: Shape, rows: int) -> float:
        return 1.0

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        drawn = scoring(dataclasses.replace(shape, choices=0.0))
        judged = 1.0 * (shape.prompt + config.n * shape.reply)  # the prompt is read once more
        return Workload(
            read=drawn.read + judged, written=config.n * drawn.written, passes=config.n * drawn.passes
        )  # fmt: skip

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        ranked = Ranked(tuple(config.reward), config.n, config.draw_temperature)
        rows, _ = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        first, best = _gain(study, ranked, [choice.asked(e) for e in rows])
        study.note(
            f"the best of {config.n} answers has a mean reward of {best:.4g}, a single one "
            f"{first:.4g}, on {len(rows)} rows"
        )
        figures: dict[str, Any] = {
            "reward_single": first, "reward_best": best,
            # Of the distribution of the best answer from that of one (arXiv 2009.01325): at most.
            "kl_at_most": math.log(config.n) - (config.n - 1) / config.n,
            "choice": f"best of {config.n} by {' + '.join(config.reward)}",
        }  # fmt: skip
        return base.Fitted(Adapter(conversation=ranked), figures, f"{config.n} answers drawn")

    def to_files(
        self, adapter: Adapter, bank: Bank, config: Any
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        talk = adapter.conversation
        assert isinstance(talk, Ranked)
        return {
            "reward": list(talk.reward), "n": talk.samples, "temperature": talk.temperature
        }, {}  # fmt: skip


def made(specs: Sequence[str], bank: Bank | None) -> rewards.Reward:
    """The reward that specs describe, without answers of the data to compare with.

    Raises:
        ConfigError: for a spec that cannot be meant, or compares with a row's own answer.
    """
    from rung.rewards.scorers import Scorers

    load = Scorers(bank, *([] if bank is None else [str(bank.device)]))
    reward = rewards.make(specs, rewards.Context(model=load, ask=load.ask))
    if gold := rewards.comparing(reward):
        raise ConfigError(
            f"--reward: {gold[0]} compares with the answer of the data, and a question that is asked "
            "has none: rank by model:NAME, or another reward that reads the answer alone"
        )
    return reward


def _gain(
    study: base.Study, ranked: Ranked, asked: Sequence[Sequence[Message]]
) -> tuple[float, float]:  # fmt: skip
    """Mean reward of a single drawn answer, and of the best of all that are drawn."""
    from rung.engine import Engine, GenerationRequest, ServedModel
    from rung.engine.request import derive_seed
    from rung.types import Decoding

    ranked.made(study.bank)  # what is refused is told before anything is drawn
    model = ServedModel("best", -1, study.template)
    requests = [
        GenerationRequest(
            "best", model.prompt(messages),
            Decoding(choice.MAX_DRAWN_TOKENS, ranked.temperature, seed=derive_seed(study.seed, i)),
        )
        for messages in asked for i in range(ranked.samples)
    ]  # fmt: skip
    engine = Engine(study.bank, {"best": model}, max_batch=min(len(requests), 64))
    texts = [one.text for one in engine.generate(requests, stopping=study.stopping)]
    singles, bests = [], []
    for i, messages in enumerate(asked):
        drawn = texts[i * ranked.samples : (i + 1) * ranked.samples]
        known = [s for s in ranked.score(study.bank, messages, drawn) if s is not None]
        if known:
            singles.append(math.fsum(known) / len(known))
            bests.append(max(known))
    count = max(1, len(singles))
    return math.fsum(singles) / count, math.fsum(bests) / count
