"""Agent: the model calls tools in a loop before it replies (Yao et al., ReAct, arXiv 2210.03629).

Departs from the paper: calls are JSON held to the tools' schemas while they are written, thoughts are
not asked for, and the examples of calls come from the training rows. Rows that hold calls are taken as
they are; of others, calls are tried on training rows, and those whose result holds the row's answer
become examples (as in Khattab et al., arXiv 2310.03714). How many, the system prompt, and whether the
first step must be a call are chosen on validation rows.

    rung tune NAME --method agent --tools tools.py --data ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.errors import MethodMisfit
from rung.evals import kinds
from rung.methods import base, choice
from rung.methods.workload import Shape, Workload, scoring
from rung.tools.agent import Agent, Turns
from rung.types import Example, Message, without_tools

if TYPE_CHECKING:
    from rung.engine.tool_loop import Trajectory
    from rung.forward.adapter import Adapter

CALL_TOKENS, RESULT_TOKENS = 40, 60  # of a call and of its result, where no row shows them
TRIED = 48  # training rows on which calls are tried for examples, at most
ROUNDS = 2  # of trying: what the first finds stands in front of the second
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
SYSTEM = ("system", "developer")


@dataclass
class Knobs:
    group: ClassVar[str] = "agent"
    steps: int = knob(5, "How often tools may answer before the reply must come.", least=1, most=50)
    call_shots: list[int] = knob(
        [0, 2, 4], "Numbers of example calls to choose from.", least=0, most=64
    )
    step_tokens: int = knob(128, "Tokens of a call, or of the reply, at most.", least=16, most=32768)
    choose_rows: int | None = choice.choose_rows()


WORDINGS = {
    "no prompt": "",
    "a prompt": "Whatever a function can work out, call it for that. Once you have the result, reply "
    "with the answer alone.",
}


class Method(choice.PromptMethod):
    summary = "calls of your tools before the answer"
    paper = "arXiv 2210.03629"
    Config = Knobs
    rows = 64  # each takes several steps
    speaks = Agent
    calls_tools = True

    def unsuited(self, task: Any, config: Knobs) -> str | None:
        if not task.tools:
            return "it calls tools: name a .py file of functions, or mcp:COMMAND, with --tools"
        if kinds.of(task).compares:
            return "rows of two replies have no answer to work out"
        return super().unsuited(task, config)

    def candidates(self, config: Knobs, shape: Shape, rows: int) -> float:
        return 2.0 * len(WORDINGS) + len(set(config.call_shots)) + TRIED / self.rows

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        if shape.calls:
            return scoring(shape)
        return scoring(replace(shape, reply=shape.reply + CALL_TOKENS), RESULT_TOKENS)

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        rows, train = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        plain = Agent.of(study.task.tools, steps=config.steps, max_tokens=config.step_tokens)
        room = choice.Room.of(study, rows, 2 * config.step_tokens)
        if not room.holds(study, plain, rows):
            raise MethodMisfit("the context does not hold a question with the tools' schemas")
        found = Examples(study, plain, train).find(max(config.call_shots))
        race = choice.Race(study, rows)
        shots = sorted({n for n in config.call_shots if n <= len(found)}) or [0]
        few = next((n for n in shots if n), 0)
        ways = [
            _candidate(plain, name, first, found[:few]) for first in (True, False) for name in WORDINGS
        ]
        best = race.best([c for c in ways if room.holds(study, c.conversation, rows)] or ways[:1])
        chosen: Any = best.conversation
        wording = next(name for name, text in WORDINGS.items() if text == chosen.system)
        more = [_candidate(plain, wording, chosen.calls_first, found[:n]) for n in shots]
        best = race.best([c for c in more if room.holds(study, c.conversation, rows)] or [best])
        calls = race.calls(best)
        study.note(f"chose {race.told(best)}, {calls:.1f} calls for an answer")
        metrics = race.metrics(best) | {"calls_per_answer": calls, "examples_found": len(found)}
        return base.Fitted(Adapter(conversation=best.conversation), metrics, f"{calls:.1f} calls")

    def to_files(self, adapter: Adapter, bank: Any, config: Any):
        asking = adapter.conversation
        assert isinstance(asking, Agent)
        return asking.settings(), {}


def _candidate(plain: Agent, wording: str, first: bool, examples: Sequence[Turns]) -> choice.Candidate:
    way = "a call first" if first else "calls as it likes"
    agent = replace(plain, system=WORDINGS[wording], calls_first=first, examples=tuple(examples))
    return choice.Candidate(f"{len(examples)} examples, {wording}, {way}", agent)


class Examples:
    """Conversations whose calls lead to the right answer, from training rows."""

    def __init__(self, study: base.Study, agent: Agent, train: Sequence[Example]):
        self.study, self.train = study, list(train)
        self.agent = replace(agent, calls_first=True, steps=1)

    def find(self, wanted: int) -> list[Turns]:
        """At most so many: what rows hold, else what trying finds."""
        if not wanted:
            return []
        shown = [_bare(e) for e in self.train if any(m.get("result") for m in e.messages)]
        if kinds.of(self.study.task).calls:
            shown = [_bare(e) for e in self.train]
        if shown:
            return sorted(shown[: 4 * wanted], key=_letters)[:wanted]
        found: list[Turns] = []
        share = max(1, min(TRIED, len(self.train)) // ROUNDS)
        for i in range(ROUNDS):
            tried = self.train[i * share : (i + 1) * share]
            if len(found) < wanted and tried:
                found += self._tried(self.agent.with_examples(found[:2]), tried)
        self.study.note(f"found {len(found)} example calls whose result holds the answer")
        return found[:wanted]

    def _tried(self, agent: Agent, rows: Sequence[Example]) -> list[Turns]:
        from rung.engine import Engine, ServedModel
        from rung.engine.tool_loop import take_steps
        from rung.forward.adapter import Adapter
        from rung.types import Decoding

        study = self.study
        model = ServedModel.of("agent", -1, study.template, Adapter(conversation=agent))
        engine = Engine(study.bank, {"agent": model}, max_batch=min(32, len(rows)))
        engine.arrange()
        decoding = Decoding(agent.max_tokens or 128, stop=model.decoding.stop)
        asked = [choice.asked(e) for e in rows]
        done = take_steps(engine, model, asked, decoding, stopping=study.stopping)
        found = (_demonstration(one, e) for one, e in zip(done, rows, strict=True))
        return [turns for turns in found if turns]


def _demonstration(trajectory: Trajectory, example: Example) -> Turns:
    """Question, call, result and the row's own answer; empty where no result holds the answer."""
    answer = example.messages[-1]["content"]
    if not any(holds(text, answer) for text in trajectory.results):
        return ()
    turns = (*trajectory.asked, *trajectory.turns, example.messages[-1])
    return tuple(m for m in turns if m["role"] not in SYSTEM)


def holds(result: str, answer: str) -> bool:
    """Whether a result gives an answer: the same number, or the same words."""
    wanted = NUMBER.fullmatch(answer.rpartition("####")[2].strip(" .$"))
    if wanted:
        told = result.partition("<tool_response>")[2]
        return any(_value(n) == _value(wanted[0]) for n in NUMBER.findall(told))
    return bool(answer.strip()) and answer.strip().casefold() in result.casefold()


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def _bare(example: Example) -> Turns:
    """A row's turns without system messages, and without the functions beside them."""
    return tuple(m for m in without_tools(example.messages) if m["role"] not in SYSTEM)


def _letters(turns: Sequence[Message]) -> int:
    return sum(len(m["content"]) for m in turns)
