"""The one template: training examples, evaluation prompts and served requests come out of it.

What departs from `apply_chat_template`: the prompt and the reply are encoded apart, so no token spans
the border and the ids a model is trained behind are the ids it is served behind; marker look-alikes in
content stay plain text (`encoding.py`); there is exactly one beginning-of-text token.

    template.prompt([{"role": "user", "content": "Hello"}])   # ids, up to the generation prompt
    template.render(example).supervised                       # the reply and its end of turn
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rung.data import row_lengths
from rung.data.call_format import CallFormat
from rung.data.chat_template import fold_system
from rung.data.detokenizer import Decoder, decoded
from rung.data.encoding import PICTURE_MARK, Disguise, Encoder, clean, mapped, texts_of
from rung.data.problem import Problem
from rung.data.turns import instructed, tools_of, with_tools
from rung.errors import DataError
from rung.pictures import tokens
from rung.types import Example, Message, Picture, Rendered, pieces

ROLES = ("system", "developer", "user", "assistant", "tool")
HIDDEN = ("content", "reasoning_content", "tool_calls", "name")  # what content may have written
SENTINEL = "\U0010fffd"  # stands for a reply when asking where a template puts it


@dataclass(frozen=True)
class Turn:
    """A reply inside a rendered conversation: `[start, end)` with its end of turn, in characters."""

    start: int
    end: int
    learnt: bool = True


@dataclass(frozen=True)
class Template:
    """A tokenizer and its chat template, as one thing that cannot drift.

    A tokenizer without a chat template gets the plain one: every message on its own lines, then the
    reply and the end-of-text token.
    """

    tokenizer: Any
    stop_ids: tuple[int, ...]
    end_of_turn: str  # the text of the token that ends a reply
    chat: bool  # whether the tokenizer brings a chat template
    folds_system: bool  # whether system messages go into the user messages behind them
    shows_reasoning: bool  # whether it writes a reply's `reasoning_content`
    adds_bos: bool
    encoder: Encoder = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)  # given to the chat template by name
    calls: CallFormat | None = None  # the chat template's own; None: Rung's form, as text
    added: Mapping[str, int] = field(default_factory=dict)  # tokens that the base has no training of
    picture_tokens: int = 0  # tokens of a picture, for adapters that see; 0: pictures are refused
    folds_late: bool = False  # whether those behind other turns do
    writes: ClassVar[bool] = True  # whether what it renders can be answered with text

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        *, stop: Iterable[int | str] = (), generation_config: Any = None,
    ) -> Template:  # fmt: skip
        """Read a tokenizer once.

        Args:
            tokenizer: a fast Hugging Face tokenizer.
            stop: further tokens that end a reply, as ids or as text.
            generation_config: an object or mapping whose `eos_token_id` also ends a reply.

        Raises:
            DataError: where it is no fast tokenizer, nothing ends its texts, its template renders no
                plain message, or `stop` names text that is no single token.
        """
        from rung.data import chat_template
        from rung.data.call_probe import call_format

        chat = bool(getattr(tokenizer, "chat_template", None))
        if chat:
            chat_template.require_usable(tokenizer)
        folds = chat and not chat_template.takes_system(tokenizer)
        late = chat and (folds or not chat_template.takes_system(tokenizer, late=True))
        end = chat_template.end_of_turn(tokenizer) if chat else None
        end = end or tokenizer.eos_token
        if not end:
            raise DataError("the tokenizer has no end-of-text token; set its eos_token")
        ids = chat_template.stop_ids(tokenizer, end, stop, generation_config)
        encoder = Encoder(tokenizer, chat_template.markers(tokenizer, ids, chat))
        thoughts = chat and chat_template.shows_reasoning(tokenizer)
        bos = chat_template.adds_bos(tokenizer)
        calls = call_format(tokenizer, end, chat_template.special(tokenizer)) if chat else None
        return cls(tokenizer, ids, end, chat, folds, thoughts, bos, encoder, {}, calls, folds_late=late)

    # -- what training, evaluation and serving call ---------------------------------------------

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """The ids to continue from: the conversation and the generation prompt.

        Args:
            tools: functions in OpenAI's words that may be called, beside those of the messages.

        Raises:
            DataError: when a message is malformed or the chat template refuses the conversation.
        """
        prepared, disguise, shown = self._prepare(with_tools(messages, tools) if tools else messages)
        text = self._text(prepared, generate=True, tools=shown)
        ids, _ = self._encode(text, self._turns(prepared, text, shown), disguise)
        return ids

    @cached_property
    def tokenizer_digest(self) -> str:
        """SHA-256 of the tokenizer, the same for equal ones: what depends on it is cached by this."""
        return hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()

    @property
    def shows_tools(self) -> bool:
        """Whether the chat template tells the model of tools."""
        return self.chat and "tools" in str(self.tokenizer.chat_template)

    def encode(self, text: str) -> list[int]:
        """A plain text as ids, with one beginning-of-text token where the tokenizer puts one."""
        ids, _ = self.encoder.encode(clean(text))
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self.adds_bos and ids[:1] != [bos] else list(ids)

    def render(self, example: Example, max_length: int | None = None) -> Rendered:
        """A row as ids, with the reply and its end of turn supervised.

        The final reply always is. An earlier reply is when the template writes it, within the longer
        conversation, the way it was generated. The row ends with the end of turn. With
        `max_length` the row is cut at the right (see `render_all` for what training wants).

        Raises:
            DataError: naming the row, when it cannot be rendered.
        """
        try:
            return self._rendered(example, max_length)
        except DataError as fault:
            raise DataError(f"{example.origin or 'a row'}: {fault}") from None

    def _rendered(self, example: Example, max_length: int | None = None) -> Rendered:
        ids, mask = (
            self._plain(example.text)
            if example.text is not None
            else self._conversation(example.messages)
        )
        return Rendered(tuple(ids[:max_length]), tuple(mask[:max_length]), example.origin)

    def render_all(
        self, examples: Iterable[Example], max_length: int | None = None
    ) -> tuple[list[Rendered], list[Problem]]:
        """Every row that fits, and what was done about the others.

        A conversation above `max_length` is left out: cut, it would teach a reply without its end.
        A plain text is split into windows, so nothing of it is lost.
        """
        kept: list[Rendered] = []
        long, split, thoughtless, mute = [], [], [], []
        refused: dict[str, list[str]] = {}  # origins by what is wrong
        for example in examples:
            if not self.shows_reasoning and any(m.get("reasoning_content") for m in example.messages):
                thoughtless.append(example.origin)
            if self.calls is not None and self.calls.leaves_out(example.messages):
                mute.append(example.origin)
            try:
                row = self._rendered(example)
            except DataError as fault:
                refused.setdefault(str(fault), []).append(example.origin)
                continue
            if max_length is None or len(row.ids) <= max_length:
                kept.append(row)
            elif example.text is not None:
                split.append(row.origin)
                kept.extend(row_lengths.windows(row, max_length))
            else:
                long.append(row.origin)
        problems = row_lengths.problems(long, split, refused, max_length)
        problems += row_lengths.unshown(thoughtless, mute)
        return kept, problems

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens but those that open and close calls."""
        return decoded(self.tokenizer, ids, () if self.calls is None else self.calls.specials.values())

    def canonical(self, text: str, names: Sequence[str] | None = None) -> str:
        """A generated text with its calls in the form that turns have; see `CallFormat.canonical`."""
        return text if self.calls is None else self.calls.canonical(text, names)

    def decoder(self) -> Decoder:
        """A fresh decoder for one stream."""
        return Decoder(self.decode)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the template and its special tokens: equal means that prompts are equal."""
        added = self.tokenizer.added_tokens_decoder
        content = {
            "template": self.tokenizer.chat_template,
            "tokens": sorted((int(i), str(t), bool(t.special)) for i, t in added.items()),
            "bos": self.tokenizer.bos_token if self.adds_bos else None,
            "end_of_turn": self.end_of_turn,
            "stop_ids": self.stop_ids,
            "vocabulary": len(self.tokenizer),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer and chat template; `AutoTokenizer.from_pretrained(folder)` reads them."""
        self.tokenizer.save_pretrained(str(folder))

    # -- the one path ---------------------------------------------------------------------------

    def _prepare(
        self, messages: Sequence[Message]
    ) -> tuple[list[dict[str, Any]], Disguise, list[dict[str, Any]]]:
        """Checked, cleaned messages and tools, their marker look-alikes hidden.

        Tools are told in the system message where the template shows none.
        """
        tools = tools_of(messages) if self.shows_tools else []
        cleaned: list[dict[str, Any]] = []
        shown: list[range] = []
        for message in self._told(messages):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise DataError(f"a message has the role {role!r}, must be one of {', '.join(ROLES)}")
            if not isinstance(content, str):
                raise DataError(f"a {role} message has no text as its content")
            pictures = message.get("pictures", ())
            if pictures and not self.picture_tokens:
                raise DataError(
                    "this base reads no pictures: use one such as efficientnet-lite0, or a model "
                    "that was made with --method projector"
                )
            shown += [tokens.ids_of(p, self.picture_tokens) for p in pictures]
            role = "system" if role == "developer" else role  # OpenAI's newer name for it
            cleaned.append({"role": role, "content": self._marked(message)})
            if self.shows_reasoning and (thoughts := message.get("reasoning_content")):
                cleaned[-1]["reasoning_content"] = clean(thoughts)
            kept = ("weight", "tool_call_id", "name") if role == "tool" else ("weight",)
            cleaned[-1] |= {k: message[k] for k in kept if message.get(k) is not None}
            if calls := message.get("tool_calls"):
                cleaned[-1]["tool_calls"] = mapped(calls, clean)
        if not cleaned:
            raise DataError("a conversation needs at least one message")
        beside = mapped(tools, clean)
        disguise = self.encoder.disguise([*texts_of(cleaned), *texts_of(beside)])
        disguise.pictures = shown
        for m in cleaned:
            m |= {k: mapped(m[k], disguise.hide) for k in HIDDEN if k in m}
        if self.folds_late:
            cleaned = fold_system(cleaned, first=self.folds_system)
        if self.calls is not None:
            cleaned = [self.calls.message(m) for m in cleaned]
        return cleaned, disguise, mapped(beside, disguise.hide)

    def _told(self, messages: Sequence[Message]) -> Sequence[Any]:
        """The turns as the template is to write them: calls and tools its own way, where it has one."""
        told = messages if self.shows_tools else instructed(messages)
        return told if self.calls is None else self.calls.structured(told)

    def _marked(self, message: Message) -> str:
        """A message's text with a mark where each of its pictures stands."""
        if not self.picture_tokens:
            return clean(message["content"])
        return "".join(
            PICTURE_MARK if isinstance(piece, Picture)
            else clean(piece).replace(PICTURE_MARK, "\N{REPLACEMENT CHARACTER}")
            for piece in pieces(message)
        )  # fmt: skip

    def _text(
        self, messages: list[dict[str, Any]], *, generate: bool, tools: Sequence[Any] = ()
    ) -> str:
        if not self.chat:
            return "".join(
                m["content"] + (self.end_of_turn if m["role"] == "assistant" else "") + "\n"
                for m in messages
            )
        from jinja2 import TemplateError

        try:
            said = {"tools": list(tools) or None, **self.settings}
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, **said
            )
        except TemplateError as fault:
            raise DataError(f"the chat template refuses the conversation: {fault}") from None

    def _turns(
        self, messages: list[dict[str, Any]], whole: str, tools: Sequence[Any] = ()
    ) -> list[Turn]:
        """The earlier replies that stand in `whole` the way they were generated.

        Depends on the messages before the final reply only, so a prompt is cut alike in training
        and in serving.
        """
        turns = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i == 0:
                continue
            before = self._text(messages[:i], generate=True, tools=tools)
            reply, ended = self._reply(messages[: i + 1], before, tools)
            if ended and whole.startswith(before + reply):
                learnt = message.get("weight") != 0
                turns.append(Turn(len(before), len(before) + len(reply), learnt))
        return turns

    def _reply(
        self, messages: list[dict[str, Any]], before: str, tools: Sequence[Any] = ()
    ) -> tuple[str, bool]:
        """What follows `before` up to the end of turn, and whether the template wrote one."""
        content = (self.calls.said(messages[-1]) if self.calls else messages[-1]["content"]).strip()
        after = self._text(messages, generate=False, tools=tools)
        if after.startswith(before):
            after = after[len(before) :]
            # The thoughts in front may hold the same words.
            thoughts = messages[-1].get("reasoning_content", "").strip()
            skipped = after.find(thoughts) + len(thoughts) if thoughts and thoughts in after else 0
            at = after.find(content, skipped)
        else:
            # The generation prompt holds what the finished turn does not, such as an opened
            # thought; the reply then follows the generation prompt as it is.
            stand_in = {"role": "assistant", "content": SENTINEL}
            header = self._text([*messages[:-1], stand_in], generate=False, tools=tools)
            header = header.rpartition(SENTINEL)[0]
            after, at = (after[len(header) :] if after.startswith(header) else content), 0
        behind = at + len(content) if at >= 0 else 0
        pattern = self.encoder.pattern
        found = pattern.search(after, behind) if pattern else None
        if found:
            return after[: found.end()], True
        return (after[:behind] if at >= 0 else after.rstrip("\n")), False

    def _conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        if not messages or messages[-1]["role"] != "assistant":
            raise DataError("the conversation does not end with an assistant message")
        if len(messages) < 2:
            raise DataError("the conversation has nothing before its reply")
        prepared, disguise, tools = self._prepare(messages)
        *earlier, last = prepared
        before = self._text(earlier, generate=True, tools=tools)
        turns = self._turns(earlier, before, tools)
        reply, ended = self._reply([*earlier, last], before, tools)
        whole = before + reply + ("" if ended else self.end_of_turn)
        final = Turn(len(before), len(whole), last.get("weight") != 0)
        return self._encode(whole, [*turns, final], disguise)

    def _plain(self, text: str) -> tuple[list[int], list[bool]]:
        """A document: all of it supervised but the first token, which nothing predicts."""
        text = clean(text)
        disguise = self.encoder.disguise([text])
        ids, _ = self._encode(disguise.hide(text), [], disguise)
        eos = self.tokenizer.eos_token_id
        ids.append(self.stop_ids[0] if eos is None else eos)
        return ids, [False] + [True] * (len(ids) - 1)

    def _encode(self, text: str, turns: list[Turn], disguise: Disguise) -> tuple[list[int], list[bool]]:
        """Encode piece by piece; a piece goes from the start of one reply to that of the next."""
        ids: list[int] = []
        mask: list[bool] = []
        edges = [0, *(t.start for t in turns), len(text)]
        waiting = list(disguise.pictures)
        for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
            learnt = i > 0 and turns[i - 1].learnt
            begins = low == 0
            piece = text[low:high]
            for n, part in enumerate(piece.split(PICTURE_MARK) if disguise.pictures else [piece]):
                if n:  # a picture stands in front of this part
                    if not waiting:
                        raise DataError("the chat template writes a picture twice")
                    shown = waiting.pop(0)
                    ids += shown
                    mask += [False] * len(shown)
                piece, cuts = disguise.reveal(part)
                until = len(disguise.reveal(part[: max(0, turns[i - 1].end - low)])[0]) if learnt else 0
                numbers, starts = self.encoder.encode(piece, cuts, begins=begins)
                ids += numbers
                mask += [start < until for start in starts]
                low, begins = low + len(part) + 1, False
        if waiting:
            raise DataError(
                "the chat template leaves out a message with a picture: it takes none there"
            )
        bos = self.tokenizer.bos_token_id
        if self.adds_bos and ids[:1] != [bos]:
            ids, mask = [bos, *ids], [False, *mask]
        return ids, mask
