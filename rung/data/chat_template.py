"""What a tokenizer and its chat template do, found by asking them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rung.errors import DataError

SYSTEM, USER, REPLY = "Probe system.", "Probe question.", "Probe reply."
THOUGHTS = "Probe thoughts."


def write(tokenizer: Any, *contents: tuple[str, str], generate: bool = False) -> str:
    """Render (role, content) pairs by the tokenizer's own template, as text."""
    messages = [{"role": role, "content": content} for role, content in contents]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)


def require_usable(tokenizer: Any) -> None:
    """Refuse templates by which no plain message can be rendered.

    Raises:
        DataError: saying what to do.
    """
    from jinja2 import TemplateError

    own = tokenizer.chat_template
    if isinstance(own, dict) and "default" not in own:
        raise DataError(
            f"the tokenizer has the chat templates {', '.join(sorted(own))} and none called default: "
            "save the one you mean as chat_template.jinja beside the tokenizer"
        )
    try:
        text = write(tokenizer, ("user", USER))
    except TemplateError:
        return  # it may want other turns; whoever renders is told why
    if USER not in text:
        raise DataError(
            "the chat template does not write the text of a plain message: it may want contents as "
            "lists of parts; save one that writes message['content'] as chat_template.jinja"
        )


def takes_system(tokenizer: Any, *, late: bool = False) -> bool:
    """Whether the chat template writes a system message (some refuse it, some drop it).

    Args:
        late: one behind other turns.
    """
    from jinja2 import TemplateError

    before = (("user", USER), ("assistant", REPLY)) if late else ()
    try:
        return SYSTEM in write(tokenizer, *before, ("system", SYSTEM), ("user", USER))
    except TemplateError:
        return False


def shows_reasoning(tokenizer: Any) -> bool:
    """Whether the chat template writes the thoughts of the last reply in front of it."""
    from jinja2 import TemplateError

    asked = {"role": "user", "content": USER}
    reply = {"role": "assistant", "content": REPLY, "reasoning_content": THOUGHTS}
    try:
        before = tokenizer.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([asked, reply], tokenize=False)
    except TemplateError:
        return False
    return whole.startswith(before) and THOUGHTS in whole[len(before) :].partition(REPLY)[0]


def special(tokenizer: Any) -> dict[str, int]:
    """The tokens that carry structure: `{text: id}`."""
    found = {str(t): int(i) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    found.update(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return found


def end_of_turn(tokenizer: Any) -> str | None:
    """The text of the token that the chat template writes after a reply, or None."""
    tail = write(tokenizer, ("user", USER), ("assistant", REPLY)).rpartition(REPLY)[2]
    added = special(tokenizer) | {str(t): int(i) for i, t in tokenizer.added_tokens_decoder.items()}
    # The first one behind the reply; of two that begin there, the longer.
    places = [(tail.find(text), -len(text), text) for text in added if text and text in tail]
    places = [p for p in places if p[2].strip()]
    return min(places)[2] if places else None


def markers(tokenizer: Any, stop_ids: Iterable[int], chat: bool) -> dict[str, int]:
    """The tokens that content must never be able to write.

    All special ones, all that end a reply, and those the template opens a turn with. Added tokens
    that replies legitimately use (`<think>`, runs of blanks) are not among them.
    """
    guarded = special(tokenizer)
    added = {int(i): str(t) for i, t in tokenizer.added_tokens_decoder.items()}
    for number in stop_ids:
        text = added.get(number)
        if text is not None:
            guarded[text] = number
    if chat:
        written = without_contents(write(tokenizer, ("user", USER)))
        guarded.update({text: number for number, text in added.items() if marks(text, written)})
    return {text: number for text, number in guarded.items() if text.strip()}


def scaffold(tokenizer: Any) -> str:
    """Return what the chat template writes around the messages of a plain conversation; "" without a
    template."""
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        return ""
    user = ("user", USER)
    turns = (("system", SYSTEM), user, ("assistant", REPLY))
    found = []
    for contents, generate in ((turns, False), (turns[1:], False), ((user,), True)):
        try:
            found.append(without_contents(write(tokenizer, *contents, generate=generate)))
        except TemplateError:  # of a system message, say
            continue
    return "\n".join(found)


def without_contents(text: str) -> str:
    """Cut the contents of probes out of what a chat template wrote."""
    for content in (SYSTEM, USER, REPLY):
        text = text.replace(content, "\n")
    return text


def marks(token: str, scaffold: str) -> bool:
    """Tell whether a token is a marker of the template that wrote a scaffold. A bare word, such as the
    name of a role or one of a default system message, opens no turn: contents and answers may hold it.
    """
    return len(token) > 1 and bool(token.strip()) and token in scaffold and not token.isalnum()


def stop_ids(
    tokenizer: Any, end: str, stop: Iterable[int | str], generation_config: Any
) -> tuple[int, ...]:
    """Every id that ends a reply, the end of turn first.

    Raises:
        DataError: when a stop given as text is no single token.
    """
    ids: list[int] = [tokenizer.convert_tokens_to_ids(end)]
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    if isinstance(generation_config, dict):
        configured = generation_config.get("eos_token_id")
    else:
        configured = getattr(generation_config, "eos_token_id", None)
    if configured is not None:
        ids += configured if isinstance(configured, (list, tuple)) else [configured]
    for token in stop:
        if isinstance(token, str):
            numbers = tokenizer(token, add_special_tokens=False)["input_ids"]
            if len(numbers) != 1:
                raise DataError(f"the stop {token!r} is not one token of this tokenizer")
            token = numbers[0]
        ids.append(token)
    return tuple(dict.fromkeys(int(i) for i in ids if i is not None))


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a beginning-of-text token first."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a")["input_ids"][:1]) == [bos]


def fold_system(messages: list[dict[str, Any]], first: bool = True) -> list[dict[str, Any]]:
    """System text in the user message behind it, for templates without a system turn there.

    So what came before a system message stays as it was asked and answered. Where no user message
    comes next, the one in front takes the text, or one of its own.

    Args:
        first: fold the one that the conversation begins with too.
    """
    folded: list[dict[str, Any]] = []
    waiting: list[str] = []

    def leave() -> None:
        if not waiting:
            return
        told = {"role": "user", "content": ""}
        if folded and folded[-1]["role"] == "user":
            told = folded.pop()
            waiting.insert(0, told["content"])
        folded.append({**told, "content": "\n\n".join(waiting)})
        waiting.clear()

    for i, message in enumerate(messages):
        if message["role"] == "system" and (first or i):
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            folded.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting.clear()
        else:
            leave()
            folded.append(dict(message))
    leave()
    return folded
