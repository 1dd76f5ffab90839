"""The nouns that every part of Rung shares. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, NotRequired, TypedDict

# What a base reads.
Modality = Literal["text", "pictures"]

LicenceClass = Literal["permissive", "restricted", "non-commercial", "closed", "unknown"]

# From the freest to the tightest; what is built from several parts takes the tightest of theirs.
LICENCE_ORDER: tuple[LicenceClass, ...] = (
    "permissive",
    "restricted",
    "unknown",
    "non-commercial",
    "closed",
)


class Picture(str):
    """A picture as a reference: the SHA-256 of its file's bytes, and where they are.

    It compares, hashes and is written as its digest alone, so that equal pictures are equal wherever
    they lie; `rung.pictures.reading` makes and reads them.

    Attributes:
        place: a file's path, `ARCHIVE.zip!MEMBER`, or the bytes themselves.
        name: what messages call it.
        perceptual_hash: of what it looks like, see `rung.pictures.perceptual_hash`; empty where nobody
            has computed it.
    """

    place: str | bytes
    name: str
    perceptual_hash: bytes

    def __new__(
        cls, digest: str, place: str | bytes = b"", name: str = "", perceptual_hash: bytes = b""
    ) -> Picture:
        made = super().__new__(cls, digest)
        made.place, made.name, made.perceptual_hash = place, name, perceptual_hash
        return made

    def __getnewargs__(self) -> tuple[str, str | bytes, str, bytes]:  # type: ignore[override]
        return str(self), self.place, self.name, self.perceptual_hash


class Message(TypedDict):
    """One turn of a conversation, as text; `rung.data.turns` makes them of rows and of requests.

    `reasoning_content` holds the thoughts in front of a reply, for templates that show them. A reply
    of `weight` 0 is context that is not learnt. `tools` are the functions that may be called in the
    conversation, in OpenAI's words; its first turn that is no system message has them. A turn of the
    user that is a `result` reports what a tool gave. `pictures` stand in front of the text, or, where
    there are `picture_offsets`, each behind so many characters of `content`, in ascending order.
    """

    role: str
    content: str
    name: NotRequired[str]
    reasoning_content: NotRequired[str]
    weight: NotRequired[int]
    tools: NotRequired[tuple[Mapping[str, Any], ...]]
    result: NotRequired[bool]
    pictures: NotRequired[tuple[Picture, ...]]
    picture_offsets: NotRequired[tuple[int, ...]]


def pieces(message: Message) -> list[str]:
    """The pictures and texts of a message in the order in which they stand."""
    content, shown = message["content"], message.get("pictures", ())
    offsets = message.get("picture_offsets") or (0,) * len(shown)
    found: list[str] = []
    at = 0
    for picture, offset in zip(shown, offsets, strict=True):
        if offset > at:
            found.append(content[at:offset])
            at = offset
        found.append(picture)
    return [*found, content[at:]] if at < len(content) or not at else found


def plain(text: str) -> str:
    """A text without letter case and extra blanks."""
    return " ".join(text.casefold().split())


def without_tools(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The turns without the functions beside them."""
    return tuple({k: v for k, v in m.items() if k != "tools"} for m in messages)  # type: ignore[misc]


@dataclass(frozen=True)
class Example:
    """One row of data: a conversation that ends with the reply to learn, or plain text.

    Attributes:
        origin: file and row for error messages, such as `quotes.json:12`.
        gold: the document that holds the answer, where retrieval is to be measured.
        choices: the answers that this row offers, the reply among them.
        rejected: of a preference row, the conversation with the worse reply; `messages` has the better.
        margin: by how much the reply is better than the rejected one, where the row says it.
        rating: how good the reply is, where the row says it; 1 and 0 for wanted and unwanted.
        group: rows of one group fall into the same part; no part of the content.
        columns: of a prompt, what stands beside it in the row, for rewards.
        tools: what the user names that may be called to answer it, as `--tools` does; no part of the
            content.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    label: str | None = None
    origin: str = ""
    gold: str | None = None
    choices: tuple[str, ...] = ()
    rejected: tuple[Message, ...] = ()
    margin: float | None = None
    rating: float | None = None
    group: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tools: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[Message, ...]:
        """The conversation up to the reply.

        Where tools can be called, what the row's own calls gave is part of the answer: it is left out,
        and so are the functions, which whoever calls them is told of.
        """
        return self.before_calls if self.tools else self.messages[:-1]

    @property
    def before_calls(self) -> tuple[Message, ...]:
        """The conversation up to the first call behind which no reply came but the last."""
        end = len(self.messages) - 1
        while end > 1 and self.messages[end - 1].get("result"):
            while self.messages[end - 1].get("result"):
                end -= 1
            end -= 1  # the turn that made the calls
        return without_tools(self.messages[:end])

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Each turn, or the text, with its pictures, without letter case and extra blanks."""
        if self.text is not None:
            return (plain(self.text),)
        return tuple(plain(" ".join([f"{m['role']}:", *pieces(m)])) for m in self.messages)

    def __getstate__(self) -> dict[str, Any]:
        """What it was made of: what follows from that is worked out again where it is sent to."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def content_key(self) -> str:
        """What counts as the same content: the words of all turns, without case and extra blanks."""
        return json.dumps(self.words)

    @cached_property
    def question_key(self) -> str:
        """What counts as the same question: the words before the reply, or what `--group-by` says."""
        if self.group is not None:
            return json.dumps({"group": self.group})
        if self.text is not None or len(self.messages) < 2:
            return self.content_key
        replied = self.messages[-1]["role"] == "assistant"  # else it is a prompt alone
        return json.dumps(self.words[: len(self.messages) - replied])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content alone, so that the same row has the same digest anywhere."""
        content: dict[str, object] = {
            "messages": self.messages, "text": self.text, "label": self.label,
        }  # fmt: skip
        # Only what a row has counts, so that a new field changes no digest of rows without it.
        for name in ("choices", "rejected", "margin", "rating"):
            if (value := getattr(self, name)) not in ((), None):
                content[name] = value
        if self.columns:
            content["columns"] = {name: str(value) for name, value in self.columns.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two continuations of one prompt, of which the chosen one is preferred to the rejected one.

    Attributes:
        prompt: the turns that both have in front, at least one.
        chosen, rejected: the turns that follow it, each ending with a reply; they differ.
        margin: by how much the chosen one is better, in the data's own unit; None where it is not said.
        origin: file and row, as in `Example`.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    margin: float | None = None
    origin: str = ""


def last_question(messages: Sequence[Message]) -> str:
    """Return the content of the user's last message; empty where the user has said nothing.

    Results of tools are not the user's.
    """
    said = (m for m in reversed(messages) if m["role"] == "user" and not m.get("result"))
    return next((m["content"] for m in said), "")


@dataclass(frozen=True)
class Prompt:
    """A model's input: token ids, and the conversation that they render.

    Attributes:
        ids: (n,) what a model of the bank reads.
        messages: the conversation as the model sees it, which models behind an API get in place of
            ids; empty for plain text.
    """

    ids: tuple[int, ...]
    messages: tuple[Message, ...] = field(default=(), hash=False)  # dicts have no hash

    @property
    def question(self) -> str:
        """The user's last message, which a sentence encoder reads in place of ids."""
        return last_question(self.messages)


# What the rows of a data set hold: replies to learn, pairs of a better and a worse reply, replies that
# are rated, or prompts that the model is to answer itself.
RowKind = Literal["replies", "pairs", "ratings", "prompts"]


@dataclass(frozen=True)
class Task:
    """What is wanted of a model: the kind of answer, and how good answers are told from bad ones.

    Attributes:
        kind: a name of `rung.evals.kinds`. metric: a name of `rung.evals.metrics`.
        labels: the label set of a classification, as the replies spell them; else empty.
        tools: what may be called to do it, as `--tools` names it.
        pictures: whether rows ask with pictures.
    """

    kind: str
    metric: str
    labels: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    pictures: bool = False


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it. `supervised[i]` says that `ids[i]` is to be predicted."""

    ids: tuple[int, ...]
    supervised: tuple[bool, ...]
    origin: str = ""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.supervised):
            raise ValueError("ids and supervised differ in length")


@dataclass(frozen=True)
class Decoding:
    """How to draw tokens. The defaults change nothing.

    Attributes:
        max_tokens: drawn at most.
        temperature: 0 is greedy.
        top_p: the smallest set of tokens whose probabilities reach this.
        seed: None draws a fresh one.
        stop: texts that end the answer and are not part of it.
        top_k: so many of the likeliest tokens; 0 is all.
        min_p: tokens at least this share as likely as the likeliest.
        presence_penalty: taken off the logit of what the answer already holds; frequency_penalty:
            the same, times how often it holds it.
        repetition_penalty: divides a positive and multiplies a negative logit of whatever prompt or
            answer hold.
        logit_bias: added to the logits of these tokens.
        strength: of a steered model's vectors; None is the model's own.
        layers: those that a steered model steers, of its own ones; empty: all of them.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    strength: float | None = None
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class BaseInfo:
    """A base model as a local folder in Hugging Face's layout, and where it came from.

    `path` holds config.json, safetensors and tokenizer. `spec` is what the user wrote (or its
    catalogue expansion); `digest` identifies the weights across machines.
    """

    name: str
    spec: str
    path: str
    digest: str
    licence: str = "unknown"
    licence_class: LicenceClass = "unknown"
    organisation: str = ""
    extra: dict[str, str] = field(default_factory=dict)
