"""Probe of a chat template for its call format: calls of known names are rendered and looked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rung.data.call_format import ARGUMENTS, ID, NAME, CallFormat, call_id, openai_call

USER = {"role": "user", "content": "Probe question."}
REPLY = {"role": "assistant", "content": "Probe reply."}
HEARD = "Probe result."
FIRST = {ID: call_id(0), NAME: "probe_first", ARGUMENTS: {"alpha": "one two", "beta": 3}}
SECOND = {ID: call_id(1), NAME: "probe_second", ARGUMENTS: {"gamma": "four"}}
# What a template that joins texts by hand, or escapes them its own way, writes otherwise.
HARD = {
    ID: call_id(0), NAME: "probe_hard",
    ARGUMENTS: {"z": 'a "quote" \\ {br}\n<é🙂>', "a": {"list": [1, 2.5, None, True, "'"], "none": {}}},
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {
        "name": c[NAME], "description": "Probe.", "parameters": {"type": "object", "properties": {}}}}
    for c in (FIRST, SECOND, HARD)
]  # fmt: skip
_DECODER = json.JSONDecoder()


class Unknown(Exception):
    """The template writes no calls in a form that is understood."""


def call_format(tokenizer: Any, end: str, special: Mapping[str, int]) -> CallFormat | None:
    """The call format of a tokenizer's chat template; None where it writes none that is understood.

    Args:
        end: the text that ends a reply. special: ids of special tokens by their texts.
    """
    written = str(tokenizer.chat_template)
    if "tool_calls" not in written or "tools" not in written:
        return None
    for as_text in (False, True):
        try:
            # Some have a template of its own for conversations with tools; calls must not depend on it.
            told, untold = (_Probe(tokenizer, end, special, as_text, t).found() for t in (TOOLS, None))
        except Unknown:
            continue
        if told == untold:
            return told
    return None


class _Probe:
    """Renderings of one template.

    Args:
        as_text: whether arguments are given as JSON text. tools: what is told beside the messages.
    """

    def __init__(
        self, tokenizer: Any, end: str, special: Mapping[str, int], as_text: bool, tools: Any
    ) -> None:
        self._tokenizer, self._end, self._special = tokenizer, end, special
        self._as_text, self._tools = as_text, tools
        self._head = self._write(USER, generate=True)
        # What stands in front of any last reply, such as an empty thought, is no part of a call.
        plain = self._write(USER, REPLY)[len(self._head) :]
        self._lead = plain.partition(REPLY["content"])[0]

    def found(self) -> CallFormat:
        """Raises Unknown."""
        opened, keys, close = self._one(FIRST)
        form = CallFormat(
            open=opened, close=close, between=None, keys=keys, text_arguments=self._as_text
        )
        form = replace(form, between=self._between(form))
        texts = (form.open, form.close, form.between or "")
        within = {t: n for t, n in self._special.items() if t.strip() and any(t in x for x in texts)}
        form = replace(form, specials=within)
        after = self._write(USER, self._calls(HARD))[len(self._head) :]
        if not after.removeprefix(self._lead).startswith(form.written([HARD]) + self._end):
            raise Unknown
        form = replace(form, results=self._takes_results())
        form = replace(form, by_content=self._by_content(form))
        return replace(form, keeps_text=form.by_content or self._keeps_text(form))

    def _one(self, call: dict[str, Any]) -> tuple[str, tuple[tuple[str, str], ...], str]:
        """What stands in front of one call, its keys, and what stands behind it."""
        whole = self._write(USER, self._calls(call))
        if not whole.startswith(self._head):
            raise Unknown
        after = whole[len(self._head) :]
        at = after.find("{")
        while at >= 0:
            try:
                value, stop = _DECODER.raw_decode(after, at)
            except ValueError:
                value, stop = None, at
            if isinstance(value, dict) and (keys := _keys(value, call)):
                behind = after[stop:]
                same = after[at:stop] == json.dumps(value, ensure_ascii=False)
                if same and self._end in behind:
                    opened = after[:at].removeprefix(self._lead)
                    return opened, keys, behind.partition(self._end)[0]
            at = after.find("{", at + 1)
        raise Unknown

    def _between(self, form: CallFormat) -> str | None:
        try:
            after = self._write(USER, self._calls(FIRST, SECOND))[len(self._head) :]
        except Unknown:
            return None
        first, second = (
            replace(form, open="", close="", between="").written([c]) for c in (FIRST, SECOND)
        )
        before, _, rest = after.partition(first)
        between, there, behind = rest.partition(second)
        whole = (
            before.removeprefix(self._lead) == form.open
            and there
            and behind.startswith(form.close + self._end)
        )
        return between if whole else None

    def _takes_results(self) -> bool:
        calls = [self._calls(FIRST)]
        try:
            return HEARD in self._write(USER, *calls, _result(FIRST), generate=True)
        except Unknown:
            self._write(USER, *calls, USER, generate=True)  # a user must report them
            return False

    def _by_content(self, form: CallFormat) -> bool:
        said = {"role": "assistant", "content": form.written([FIRST])}
        behind = [_result(FIRST), REPLY, USER] if form.results else [USER]
        try:
            return all(
                self._write(USER, said, *more) == self._write(USER, self._calls(FIRST), *more)
                for more in ([], behind)
            )
        except Unknown:
            return False

    def _keeps_text(self, form: CallFormat) -> bool:
        both = {**self._calls(FIRST), "content": REPLY["content"]}
        try:
            after = self._write(USER, both)[len(self._head) :]
        except Unknown:
            return False
        before, there, _ = after.partition(form.written([FIRST]))
        return bool(there) and REPLY["content"] in before

    def _calls(self, *calls: dict[str, Any]) -> dict[str, Any]:
        shown = [openai_call(call, self._as_text) for call in calls]
        return {"role": "assistant", "content": "", "tool_calls": shown}

    def _write(self, *messages: Mapping[str, Any], generate: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                list(messages), tools=self._tools, tokenize=False, add_generation_prompt=generate
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
            raise Unknown from None


def _result(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "tool", "content": HEARD, "name": call[NAME], "tool_call_id": call[ID]}


def _keys(value: Mapping[str, Any], call: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The keys of a call's object with what each holds; empty where it holds anything else."""
    found: Sequence[tuple[str, str]] = [
        (key, what)
        for key, held in value.items()
        for what in (NAME, ARGUMENTS, ID)
        if held == call[what]
    ]
    kinds = [what for _, what in found]
    whole = len(found) == len(value) and len(set(kinds)) == len(kinds)
    return tuple(found) if whole and {NAME, ARGUMENTS} <= set(kinds) else ()
