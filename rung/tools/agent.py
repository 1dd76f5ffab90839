"""An agent's words: which tools it is told of, how it is asked, and what follows from a call.

    agent = Agent.of(("tools.py",))
    agent.messages([{"role": "user", "content": "12 * 7?"}])      # what the model sees
    agent.follow(turns, '<tool_call>{"name": ...}</tool_call>')   # the call's turn, and its result's

Yao et al. 2023, ReAct (arXiv 2210.03629), is the loop: a call, its result, and so on, then the reply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rung.data.call_format import made_in
from rung.data.conversation import Conversation
from rung.data.tool_calls import CLOSE, OPEN
from rung.data.turns import SYSTEM, read_turn, result_turn, told, tools_of, turns, with_tools
from rung.errors import ArtefactError
from rung.tools import allowed
from rung.tools.base import Result
from rung.tools.calls import Call, parse, schema
from rung.tools.toolbox import open_toolbox
from rung.types import Message, without_tools

STEPS = 5  # results between the question and the reply, at most
TOKENS = 192  # of a call or a reply
MAX_PARALLEL = 4  # calls of one step
FILE = "tools.json"  # in the folder of a model whose method keeps other words, or none

Turns = tuple[Message, ...]


@dataclass(frozen=True)
class Agent(Conversation):
    """Tools in a loop.

    Attributes:
        tools: what the owner named, as `--tools` does, with absolute paths.
        functions: of these tools, as prompts show them.
        system: said in the system message, behind the conversation's own; empty says nothing.
        examples: conversations with calls in front of the first question.
        steps: how often tools may answer; then the reply must come.
        calls_first: whether the first step must be a call.
    """

    tools: tuple[str, ...] = ()
    functions: tuple[Mapping[str, Any], ...] = ()
    system: str = ""
    examples: tuple[Turns, ...] = ()
    steps: int = STEPS
    calls_first: bool = False
    max_tokens: int | None = TOKENS

    @classmethod
    def of(cls, specs: Sequence[str], **settings: Any) -> Agent:
        """Tools that the owner of this machine names.

        Raises:
            ConfigError: for tools that cannot be opened.
        """
        named = allowed.allow(specs)
        return cls(named, tuple(open_toolbox(named).functions), **settings)

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        functions = tools_of(messages) or self.functions  # those of a client that makes calls itself
        found = list(without_tools(messages))
        if self.system:
            first = [m for m in found if m["role"] in SYSTEM]
            own = [str(m["content"]) for m in first if str(m["content"]).strip()]
            rest = [m for m in found if m["role"] not in SYSTEM]
            found = [{"role": "system", "content": "\n\n".join([*own, self.system])}, *rest]
        start = next((i for i, m in enumerate(found) if m["role"] not in SYSTEM), len(found))
        shown = [dict(m) for example in self.examples for m in example]
        return with_tools([*found[:start], *shown, *found[start:]], functions)  # type: ignore

    def answer(self, text: str) -> str:
        return parse(text, self.names)[0].strip()

    @property
    def names(self) -> list[str]:
        """Names of all functions."""
        return [str(f["function"]["name"]) for f in self.functions]

    def grammar(self, messages: Sequence[Message]) -> dict[str, Any] | None:
        taken = taken_steps(messages)
        mode = "auto"
        if taken >= self.steps:
            mode = "answer"
        elif self.calls_first and not taken:
            mode = "call"
        shown = tools_of(messages) or self.functions
        shape = schema([f["function"] for f in shown])
        return {
            "schema": shape, "open": OPEN, "close": CLOSE, "most": MAX_PARALLEL, "mode": mode,
            "made": made_in(self.messages(messages)),
        }  # fmt: skip

    def follow(self, messages: Sequence[Message], text: str) -> list[Message] | None:
        said, calls = parse(text, self.names)
        if not calls or taken_steps(messages) >= self.steps:
            return None
        results = [self.run(call) for call in calls[:MAX_PARALLEL]]
        return [called(said, calls[:MAX_PARALLEL]), *map(reported, calls, results)]

    def run(self, call: Call) -> Result:
        """Make one call.

        Raises:
            ConfigError: for tools that nobody has named on this machine, or that cannot be opened.
        """
        allowed.check(self.tools)
        return open_toolbox(self.tools).run(call)

    # --- on disk --------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "tools": list(self.tools), "functions": [f["function"] for f in self.functions],
            "system": self.system, "examples": [list(map(dict, turns)) for turns in self.examples],
            "steps": self.steps, "calls_first": self.calls_first, "max_tokens": self.max_tokens,
        }  # fmt: skip

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Agent:
        """From what `settings` gave; raises KeyError, TypeError or ValueError."""
        return cls(
            tuple(map(str, settings["tools"])), tuple(told(f) for f in settings["functions"]),
            str(settings["system"]), tuple(tuple(map(read_turn, t)) for t in settings["examples"]),
            int(settings["steps"]), bool(settings["calls_first"]), int(settings["max_tokens"]),
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Put it into a model's folder, beside the weights that were trained to call these tools."""
        text = json.dumps(self.settings(), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read_folder(cls, folder: Path) -> Agent | None:
        """What `write` put into a model's folder; None where there is none.

        Raises:
            ArtefactError: for a file that does not hold it.
        """
        place = folder / FILE
        if not place.exists():
            return None
        try:
            return cls.read(json.loads(place.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise ArtefactError(f"{place} does not hold an agent's tools: {fault!r}") from None

    def with_examples(self, examples: Sequence[Turns]) -> Agent:
        """The same with these conversations in front."""
        return replace(self, examples=tuple(examples))


def called(said: str, calls: Sequence[Call]) -> Message:
    """A turn that makes calls, as a client's message of the same content is read."""
    shown = [call.shown() for call in calls]
    return turns([{"role": "assistant", "content": said or None, "tool_calls": shown}])[0]


def reported(call: Call, result: Result) -> Message:
    """The turn that reports a call's result."""
    return result_turn(result.text, call.name)


def taken_steps(messages: Sequence[Message]) -> int:
    """How often tools have answered since the user's last question."""
    taken, inside = 0, False
    for message in reversed(messages):
        if message.get("result"):
            taken, inside = taken + (not inside), True
        elif message["role"] == "assistant":
            inside = False
        else:
            break
    return taken
