"""Graders of the OpenAI API: what a JSON object says of how an answer is to be scored.

    {"type": "string_check", "name": "n", "input": "{{sample.output_text}}",
     "reference": "{{item.answer}}", "operation": "eq"}

Texts may hold `{{item.COLUMN}}`, `{{sample.output_text}}` and `{{sample.output_json.FIELD}}`, and no
other namespace. `like` and `ilike` ask whether the input holds the reference. A grader that cannot say
anything of an answer gives None, and notes why.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.errors import ConfigError, DataError, nearest
from rung.evals.metrics.parsing import read_json
from rung.rewards.extraction import number
from rung.rewards.overlap import MEASURES, measured
from rung.rewards.sandbox import Sandbox

Grader = Mapping[str, Any]
# Answer conversations by a model of that name, drawing as `sampling_params` say.
Ask = Callable[[str, Sequence[Sequence[Mapping[str, str]]], Mapping[str, Any]], "list[str]"]

_PLACE = re.compile(r"\{\{\s*(item|sample)\.([^{}\s]+)\s*\}\}")
_ANY_PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
NEEDED: dict[str, tuple[str, ...]] = {
    "string_check": ("input", "reference", "operation"),
    "text_similarity": ("input", "reference", "evaluation_metric"),
    "python": ("source",),
    "score_model": ("input", "model"),
    "label_model": ("input", "model", "labels", "passing_labels"),
    "multi": ("graders", "calculate_output"),
}
OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}
SIMILARITIES = (
    "cosine", "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4",
    "rouge_5", "rouge_l",
)  # fmt: skip
FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "abs": abs, "floor": math.floor, "ceil": math.ceil, "exp": math.exp,
    "sqrt": math.sqrt, "log": math.log,
}  # fmt: skip
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
MAX_GRADERS = 32  # of a multi grader
MAX_SOURCE = 256 << 10  # characters of Python
PYTHON_SECONDS, PYTHON_MEGABYTES = 5.0, 512


@dataclass(kw_only=True)
class Graded:
    """One answer as it was scored.

    Attributes:
        parts: of a multi grader, what each of its graders gave.
        faults: what went wrong, in OpenAI's names.
    """

    reward: float | None
    parts: dict[str, float | None] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def check(grader: Any, *, python: bool = True, where: str = "grader", inside: bool = False) -> Grader:
    """A grader as it is, once all of it is found to be sound.

    Args:
        python: whether graders in Python are allowed here.
        inside: of a multi grader.

    Raises:
        ConfigError: naming the first field at fault.
    """
    if not isinstance(grader, Mapping):
        raise ConfigError(f"{where} must be an object with a type")
    kind = grader.get("type")
    if kind not in NEEDED:
        raise ConfigError(f"{where}.type is '{kind}'{nearest(str(kind), NEEDED)}")
    for name in NEEDED[kind]:
        if name not in grader:
            raise ConfigError(f"{where}.{name} is missing")
    if kind == "python" and not python:
        raise ConfigError(f"{where}: this server runs no Python of its clients (--python-graders)")
    if kind in ("label_model",) and not inside:
        raise ConfigError(f"{where}: label_model stands only inside a multi grader")
    CHECKS[kind](grader, where, python)
    return grader


def _check_string(grader: Grader, where: str, python: bool) -> None:
    _templates(grader, ("input", "reference"), where)
    if grader["operation"] not in OPERATIONS:
        told = nearest(str(grader["operation"]), OPERATIONS)
        raise ConfigError(f"{where}.operation is '{grader['operation']}'{told}")


def _check_similarity(grader: Grader, where: str, python: bool) -> None:
    _templates(grader, ("input", "reference"), where)
    metric = grader["evaluation_metric"]
    if metric not in SIMILARITIES or metric not in MEASURES:
        told = nearest(str(metric), SIMILARITIES)
        raise ConfigError(f"{where}.evaluation_metric is '{metric}'{told}")


def _check_python(grader: Grader, where: str, python: bool) -> None:
    source = grader["source"]
    if not isinstance(source, str) or len(source) > MAX_SOURCE:
        raise ConfigError(f"{where}.source must be Python of at most {MAX_SOURCE} characters")
    try:
        names = {n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise ConfigError(f"{where}.source is no Python: {fault}") from None
    if "grade" not in names:
        raise ConfigError(f"{where}.source defines no function grade(sample, item)")


def _check_model(grader: Grader, where: str, python: bool) -> None:
    messages = grader["input"]
    sound = isinstance(messages, list) and messages
    if not sound or not all(isinstance(m, Mapping) and "content" in m for m in messages):
        raise ConfigError(f"{where}.input must be a list of messages with role and content")
    for i, message in enumerate(messages):
        _places(_content(message), f"{where}.input[{i}].content")
    limits = grader.get("range", [0.0, 1.0])
    if not _is_range(limits):
        raise ConfigError(f"{where}.range must be two numbers, the smaller first")
    labels, passing = grader.get("labels", []), grader.get("passing_labels", [])
    if not set(passing) <= set(labels):
        raise ConfigError(f"{where}.passing_labels must be some of its labels")


def _check_multi(grader: Grader, where: str, python: bool) -> None:
    parts = parts_of(grader)
    if not parts or len(parts) > MAX_GRADERS:
        raise ConfigError(f"{where}.graders must be 1 to {MAX_GRADERS} graders by name")
    for name, part in parts.items():
        if isinstance(part, Mapping) and part.get("type") == "multi":
            raise ConfigError(f"{where}.graders.{name}: a multi grader holds no other")
        check(part, python=python, where=f"{where}.graders.{name}", inside=True)
    calculate(str(grader["calculate_output"]), dict.fromkeys(parts, 1.0), where)


CHECKS: dict[str, Callable[[Grader, str, bool], None]] = {
    "string_check": _check_string, "text_similarity": _check_similarity, "python": _check_python,
    "score_model": _check_model, "label_model": _check_model, "multi": _check_multi,
}  # fmt: skip


def parts_of(grader: Grader) -> dict[str, Any]:
    """The graders of a multi grader by name: an object by name, a list, or one alone."""
    graders = grader["graders"]
    if isinstance(graders, Mapping) and isinstance(graders.get("type"), str):
        graders = [graders]
    if isinstance(graders, Mapping):
        return dict(graders)
    found = {}
    for i, one in enumerate(graders if isinstance(graders, list) else []):
        found[str(one.get("name", i)) if isinstance(one, Mapping) else str(i)] = one
    return found


def _templates(grader: Grader, names: Sequence[str], where: str) -> None:
    for name in names:
        if not isinstance(grader[name], str):
            raise ConfigError(f"{where}.{name} must be a text")
        _places(grader[name], f"{where}.{name}")


def _places(text: str, where: str) -> None:
    for inner in _ANY_PLACE.findall(text):
        if not _PLACE.fullmatch(f"{{{{{inner}}}}}"):
            raise ConfigError(f"{where} holds '{{{{{inner}}}}}': only item. and sample. are known")


def _content(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, Mapping):
        content = content.get("text", "")
    return content if isinstance(content, str) else ""


def _is_range(limits: Any) -> bool:
    numbers = isinstance(limits, (list, tuple)) and len(limits) == 2
    return numbers and all(isinstance(v, (int, float)) for v in limits) and limits[0] < limits[1]


# --- scoring ----------------------------------------------------------------------------------------


class Grading:
    """Scores answers by one grader.

    Args:
        grader: sound, see `check`.
        ask: lets models answer, for graders that ask one; None where there are none.
    """

    def __init__(
        self, grader: Grader, ask: Ask | None = None, note: Callable[[str], None] = lambda t: None
    ):
        self.grader, self.ask, self.note = grader, ask, note
        self._sandboxes: dict[str, Sandbox] = {}

    def grade(self, texts: Sequence[str], items: Sequence[Mapping[str, Any]]) -> list[Graded]:
        """Score each answer beside the row of data that it answers."""
        return self._grade(self.grader, texts, items)

    def close(self) -> None:
        """End processes that run Python."""
        for sandbox in self._sandboxes.values():
            sandbox.close()
        self._sandboxes.clear()

    def _grade(
        self, grader: Grader, texts: Sequence[str], items: Sequence[Mapping[str, Any]]
    ) -> list[Graded]:
        kind = grader["type"]
        if kind == "multi":
            return self._multi(grader, texts, items)
        if kind == "python":
            return self._python(grader, texts, items)
        if kind in ("score_model", "label_model"):
            return self._model(grader, texts, items)
        return [self._compared(grader, t, i) for t, i in zip(texts, items, strict=True)]

    def _compared(self, grader: Grader, text: str, item: Mapping[str, Any]) -> Graded:
        try:
            said, reference = (filled(grader[n], text, item) for n in ("input", "reference"))
        except DataError as fault:
            return Graded(reward=None, faults={"invalid_variable_error": str(fault)})
        if grader["type"] == "string_check":
            return Graded(reward=float(OPERATIONS[grader["operation"]](said, reference)))
        return Graded(reward=measured(grader["evaluation_metric"], [said], [reference])[0])

    def _python(
        self, grader: Grader, texts: Sequence[str], items: Sequence[Mapping[str, Any]]
    ) -> list[Graded]:
        source = grader["source"]
        if source not in self._sandboxes:
            self._sandboxes[source] = Sandbox(
                {"source": source, "function": "grade"}, seconds=PYTHON_SECONDS,
                megabytes=PYTHON_MEGABYTES, closed=True, note=self.note,
            )  # fmt: skip
        found = []
        for text, item in zip(texts, items, strict=True):
            call = {"plain": [sample_of(text), dict(item)], "named": {}}
            try:
                (reward,) = self._sandboxes[source].score([call])
                said = "; ".join(self._sandboxes[source].faults)
            except ConfigError as fault:
                reward, said = None, str(fault)
            faults = {"python_grader_runtime_error": said} if said else {}
            found.append(Graded(reward=reward, faults=faults))
        return found

    def _model(
        self, grader: Grader, texts: Sequence[str], items: Sequence[Mapping[str, Any]]
    ) -> list[Graded]:
        if self.ask is None:
            told = "no model can be asked here"
            return [Graded(reward=None, faults={"model_grader_server_error": told}) for _ in texts]
        asked, lost = [], {}
        for i, (text, item) in enumerate(zip(texts, items, strict=True)):
            try:
                asked.append((i, _filled_messages(grader, text, item)))
            except DataError as fault:
                lost[i] = Graded(reward=None, faults={"invalid_variable_error": str(fault)})
        answers = self.ask(grader["model"], [m for _, m in asked], grader.get("sampling_params") or {})
        found = {i: _read(grader, said) for (i, _), said in zip(asked, answers, strict=True)}
        return [{**lost, **found}[i] for i in range(len(texts))]

    def _multi(
        self, grader: Grader, texts: Sequence[str], items: Sequence[Mapping[str, Any]]
    ) -> list[Graded]:
        parts = {name: self._grade(g, texts, items) for name, g in parts_of(grader).items()}
        found = []
        for i in range(len(texts)):
            values = {name: each[i].reward for name, each in parts.items()}
            faults = {k: v for each in parts.values() for k, v in each[i].faults.items()}
            known = {name: v for name, v in values.items() if v is not None}
            reward = None
            if len(known) == len(values):
                try:
                    reward = calculate(str(grader["calculate_output"]), known)
                except ConfigError as fault:
                    faults["formula_evaluation_error"] = str(fault)
            found.append(Graded(reward=reward, parts=values, faults=faults))
        return found


def _filled_messages(grader: Grader, text: str, item: Mapping[str, Any]) -> list[dict[str, str]]:
    messages = [
        {"role": str(m.get("role", "user")), "content": filled(_content(m), text, item)}
        for m in grader["input"]
    ]
    low, high = grader.get("range", [0.0, 1.0])
    labels = ", ".join(map(str, grader.get("labels", [])))
    wanted = f"one of these labels: {labels}" if labels else f"a number from {low:g} to {high:g}"
    messages[-1]["content"] += f"\n\nAnswer with {wanted}, and nothing else."
    return messages


def _read(grader: Grader, said: str) -> Graded:
    """What a model's answer says: a number within the range, or a label."""
    if grader["type"] == "label_model":
        plain = said.strip().strip(".\"'").casefold()
        found = [label for label in grader["labels"] if str(label).casefold() == plain]
        if not found:
            return Graded(reward=None, faults={"model_grader_parse_error": said[:200]})
        return Graded(reward=float(found[0] in grader["passing_labels"]))
    value = number(said)
    if value is None:
        return Graded(reward=None, faults={"model_grader_parse_error": said[:200]})
    low, high = grader.get("range", [0.0, 1.0])
    return Graded(reward=min(high, max(low, value)))


def sample_of(text: str) -> dict[str, Any]:
    """An answer as templates and Python see it."""
    found: dict[str, Any] = {"output_text": text}
    with contextlib.suppress(ValueError):
        found["output_json"] = read_json(text)
    return found


def filled(text: str, answer: str, item: Mapping[str, Any]) -> str:
    """A template with its places filled. Raises DataError naming a place that is not there."""

    def fill(match: re.Match) -> str:
        value: Any = item if match[1] == "item" else sample_of(answer)
        for key in match[2].split("."):
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, Mapping) and key in value:
                value = value[key]
            else:
                raise DataError(f"there is no {match[1]}.{match[2]}")
        return value if isinstance(value, str) else json.dumps(value)

    return _PLACE.sub(fill, text)


def calculate(formula: str, values: Mapping[str, float], where: str = "grader") -> float:
    """Evaluate arithmetic over names: + - * /, brackets, and a few functions.

    Raises:
        ConfigError: for anything else, an unknown name, or a result that is not finite.
    """
    try:
        result = float(_evaluated(ast.parse(formula, mode="eval").body, values))
    except ConfigError:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as fault:
        raise ConfigError(f"{where}.calculate_output '{formula[:80]}' fails: {fault}") from None
    if not math.isfinite(result):
        raise ConfigError(f"{where}.calculate_output '{formula[:80]}' is not finite")
    return result


def _evaluated(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _evaluated(node.left, values), _evaluated(node.right, values)
        return OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _evaluated(node.operand, values)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        return FUNCTIONS[node.func.id](*(_evaluated(a, values) for a in node.args))
    known = ", ".join([*values, *FUNCTIONS])
    raise ConfigError(f"calculate_output holds '{ast.unparse(node)[:60]}': there are {known}")
