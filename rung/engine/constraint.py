"""Constrained decoding: JSON, a JSON schema, a regular expression, one of several texts, tool calls.

llguidance follows the grammar while the answer grows and says which tokens may come next. It prepares
a grammar in milliseconds since it builds no table over the vocabulary, and its own limits bound time
and memory; what could still overflow its stack (nesting) or is of no use to anybody (a repeat of a
repeat, on which the validators of clients hang) is refused before it gets there.

engine.constraint("base", "json_schema", {"type": "object"})
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from rung.engine.patterns import ConstraintError, check_pattern

Kind = Literal["json_object", "json_schema", "regex", "choice", "tool_calls"]
KINDS: tuple[Kind, ...] = ("json_object", "json_schema", "regex", "choice", "tool_calls")

MAX_CHARACTERS = 100_000  # maximum length of a grammar
MAX_LEVELS = 64  # maximum depth of nesting in a schema
MAX_KEPT = 128  # maximum number of compiled grammars kept per tokenizer
# Small models fill a page with blanks where JSON lets them: one line break, indented, or one blank.
STYLE = {"whitespace_pattern": r"(\n {0,24}| ?)"}
# Calls are written as `json.dumps` writes them, so that a client writes back what was generated.
CALL_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
LIMITS = {
    "max_items_in_row": 2_000,
    "initial_lexer_fuel": 200_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 50_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 100_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}


@dataclass(frozen=True)
class Constraint:
    """Compiled grammar; any number of answers can follow it at once.

    Attributes:
        kind: what it was made from. key: equal for equal grammars.
    """

    kind: Kind
    key: str
    _start: Any = field(repr=False, compare=False)

    def begin(self) -> Any:
        """Make a matcher at the beginning of the grammar, for one answer."""
        return self._start.deep_copy()


class Grammars:
    """Compiler of grammars for one tokenizer, which keeps the last ones; safe to use from any thread.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        stop_ids: tokens that may come when the grammar is fulfilled.
        vocabulary: width of the logits.
    """

    def __init__(self, tokenizer: Any, stop_ids: tuple[int, ...], vocabulary: int):
        from llguidance.hf import from_tokenizer

        width = max(vocabulary, len(tokenizer))
        self._tokenizer = from_tokenizer(tokenizer, n_vocab=width, eos_token=list(stop_ids), slices=[])
        self._kept: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, kind: str, value: Any = None) -> Constraint:
        """Compile a constraint, or take it from the cache where the same was asked for lately.

        Args:
            kind: one of KINDS.
            value: the schema (a mapping or its JSON), the pattern, or the texts to choose from;
                nothing for `json_object`; for `tool_calls` see `_of_calls`.

        Raises:
            ConstraintError: naming what is wrong with it.
        """
        grammar = grammar_of(kind, value)
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
                return self._kept[grammar]
        made = Constraint(cast(Kind, kind), grammar, self._matcher(grammar))
        with self._lock:
            self._kept[grammar] = made
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    def _matcher(self, grammar: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**LIMITS)  # type: ignore[arg-type]
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if not matcher.is_error():
            trial = matcher.deep_copy()
            trial.compute_bitmask()  # a grammar that nothing fulfils fails here
            if not trial.is_error():
                return matcher
            matcher = trial
        raise ConstraintError(f"the grammar cannot be used: {_reason(matcher.get_error())}")


def grammar_of(kind: str, value: Any = None) -> str:
    """Write a grammar in llguidance's own words, equal for equal input; raises ConstraintError."""
    if kind not in KINDS:
        raise ConstraintError(f"no constraint is called '{kind[:100]}': take one of {', '.join(KINDS)}")
    return _MAKERS[cast(Kind, kind)](value)


def _of_object(_: Any) -> str:
    return _of_schema({"type": "object"})


def _of_schema(schema: Any) -> str:
    from llguidance import LLMatcher

    if isinstance(schema, str):
        schema = _parsed(schema)
    if not isinstance(schema, dict):
        raise ConstraintError("a schema must be a JSON object")
    for pattern in _patterns_of(schema):
        check_pattern(pattern)
    text = _bounded(json.dumps(schema, separators=(",", ":")))
    return LLMatcher.grammar_from_json_schema(text, overrides=cast(Any, STYLE))


def _of_regex(pattern: Any) -> str:
    from llguidance import LLMatcher

    if not isinstance(pattern, str):
        raise ConstraintError("a regular expression must be text")
    check_pattern(pattern)
    return LLMatcher.grammar_from_regex(pattern)


def _of_choice(texts: Any) -> str:
    from llguidance import LLMatcher

    texts = [] if isinstance(texts, str | dict) else list(texts)
    if not texts or not all(isinstance(t, str) and t for t in texts):
        raise ConstraintError("a choice needs a list of texts, none empty")
    quoted = " | ".join(json.dumps(t, ensure_ascii=False) for t in dict.fromkeys(texts))
    return LLMatcher.grammar_from_lark(_bounded(f"start: {quoted}"))


def _of_calls(value: Any) -> str:
    """Text, calls, or text and then calls; behind a call comes another one or the end.

    Args:
        value: `schema` of a call, `open` and `close` around it, `most` calls side by side, and `mode`:
            `auto`, `call` for nothing but calls, `answer` for text without any, `form` for calls or
            JSON of the schema `form`. A base's own call format says more, see `_of_own_calls`.
    """
    if "bodies" in value:
        return _of_own_calls(value)
    opened, closed = json.dumps(value["open"]), json.dumps(value["close"])
    tag = re.escape(value["open"]).replace("/", "\\/")
    starts = {"auto": "TEXT | led", "call": "first", "answer": "TEXT", "form": "first | form"}
    for pattern in _patterns_of(value["schema"]):
        check_pattern(pattern)
    schema = json.dumps({**value["schema"], "x-guidance": CALL_STYLE}, separators=(",", ":"))
    more = f" more{{0,{value['most'] - 1}}}" if value["most"] > 1 else ""
    grammar = (
        f"start: {starts[value['mode']]}\n{_form(value)}"
        f"first: {opened} body {closed}{more}\n"
        f"led: lead body {closed}{more}\n"
        f'more: "\\n" {opened} body {closed}\n'
        f"lead[lazy]: /(?s:.*){tag}/\n"
        f"TEXT: /(?s:.+)/ & ~/(?s:.*){tag}(?s:.*)/\n"
        f"body: %json {schema}\n"
    )
    return _bounded(grammar)


def _of_own_calls(value: Any) -> str:
    """Calls as a base's chat template writes them (`rung.data.call_format.CallFormat.grammar`).

    Args:
        value: `schemas` of the calls in order, the last one of all further ones; `open`, `between` and
            `close` around them with their `specials` by text; `tag`, which tells a call from text, ""
            where calls are bare objects that begin with one of `first_keys`; `led`, whether text may
            stand in front; `most` and `mode` as above.
    """
    for _, schema, _ in value["bodies"][0]:
        for pattern in _patterns_of(schema):
            check_pattern(pattern)
    opened, between, closed = (
        _literal(value[k], value["specials"]) for k in ("open", "between", "close")
    )
    bodies, tag = value["bodies"], value["tag"]
    if tag in value["specials"]:  # no text holds a special token
        text = "/(?s:.+)/"
    elif tag:
        text = f"/(?s:.+)/ & ~/(?s:.*){_regex(tag)}(?s:.*)/"
    else:
        keys = "|".join(map(_regex, value["first_keys"]))
        text = rf'/(?s:.+)/ & ~/((?s:.*)\n)?[ \t]*\{{\s*"({keys})"(?s:.*)/'
    starts = {"auto": "TEXT | first", "call": "first", "answer": "TEXT", "form": "first | form"}
    start, rules = starts[value["mode"]], [_form(value)]
    if value["mode"] == "auto" and value["led"]:
        if tag in value["specials"]:
            start += f" | TEXT {opened} calls"
        else:
            behind = _literal(value["open"].partition(tag)[2], value["specials"])
            start += f" | lead {behind} calls"
            rules.append(f"lead[lazy]: /(?s:.*){_regex(tag)}/")
    rules.insert(0, f"start: {start}")
    rules += [f"first: {opened} calls", f"TEXT: {text}"]
    rules.append(f"calls: body0 {_more(1, value['most'], len(bodies), between)} {closed}")
    for n, (_, schema, _) in enumerate(bodies[0]):
        shape = json.dumps({**schema, "x-guidance": CALL_STYLE}, separators=(",", ":"))
        rules.append(f"given{n}: %json {shape}")
    for i, functions in enumerate(bodies):
        # One lexeme up to the arguments: the lexer is greedy, and text may begin as a call does.
        shapes = (f"{json.dumps(a)} given{n} {json.dumps(b)}" for n, (a, _, b) in enumerate(functions))
        rules.append(f"body{i}: {' | '.join(shapes)}")
    return _bounded("\n".join(rules) + "\n")


def _form(value: Any) -> str:
    """The rule of what may stand in place of calls; none but in that mode."""
    if value["mode"] != "form":
        return ""
    for pattern in _patterns_of(value["form"]):
        check_pattern(pattern)
    shape = json.dumps({**value["form"], "x-guidance": STYLE}, separators=(",", ":"))
    return f"form: %json {shape}\n"


def _more(at: int, most: int, bodies: int, between: str) -> str:
    """A rule for at most `most` calls behind the first ones, each with its schema."""
    if at >= most:
        return ""
    body = f"body{min(at, bodies - 1)}"
    return f"({between} {body} {_more(at + 1, most, bodies, between)})?"


def _literal(text: str, specials: dict[str, int]) -> str:
    """A text in the grammar's words, its special tokens by their ids."""
    parts = re.split(f"({'|'.join(map(re.escape, specials))})", text) if specials else [text]
    return " ".join(f"<[{specials[p]}]>" if p in specials else json.dumps(p) for p in parts if p)


def _regex(text: str) -> str:
    return re.escape(text).replace("/", "\\/").replace("\\\n", "\\n")


_MAKERS: dict[Kind, Callable[[Any], str]] = {
    "json_object": _of_object,
    "json_schema": _of_schema,
    "regex": _of_regex,
    "choice": _of_choice,
    "tool_calls": _of_calls,
}


def _parsed(text: str) -> Any:
    try:
        return json.loads(_bounded(text))
    except (ValueError, RecursionError):
        raise ConstraintError("the schema is not valid JSON, or nested too deeply") from None


def _bounded(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise ConstraintError(
            f"the grammar has {len(text)} characters, which is more than {MAX_CHARACTERS}"
        )
    return text


def _patterns_of(schema: dict[str, Any]) -> list[str]:
    """List every regular expression in a schema; raises ConstraintError where it is too deep."""
    found: list[str] = []
    left: list[tuple[Any, int]] = [(schema, 1)]
    while left:  # recursion would end where the schema wants it to
        node, level = left.pop()
        if level > MAX_LEVELS:
            raise ConstraintError(f"the schema is nested more than {MAX_LEVELS} levels deep")
        if isinstance(node, dict):
            if isinstance(node.get("pattern"), str):
                found.append(node["pattern"])
            if isinstance(node.get("patternProperties"), dict):
                found.extend(node["patternProperties"])
            left.extend((child, level + 1) for child in node.values())
        elif isinstance(node, list):
            left.extend((child, level + 1) for child in node)
    return found


def _reason(error: str) -> str:
    """Pick the part of llguidance's message that tells the user something."""
    if "NoExtension" in error:
        return "no text can fulfil it"
    lines = [line.strip() for line in error.splitlines()]
    told = [line for line in lines if line.startswith("error:")] or lines[:1]
    return told[0].removeprefix("error: ")[:300]
