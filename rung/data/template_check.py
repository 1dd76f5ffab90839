"""Checks of a chat template before anything is trained with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.data import chat_template
from rung.data.problem import Problem
from rung.data.template import Template


def problems(template: Template) -> list[Problem]:
    """Check a template for faults that ruin a training; each message says how to mend it."""
    found: list[Problem] = []
    tokenizer = template.tokenizer
    if template.chat:
        found += _generation_prompt(tokenizer, template)
        if chat_template.end_of_turn(tokenizer) is None:
            found.append(
                Problem(
                    "warning",
                    "the chat template writes no end of turn after a reply: "
                    f"{template.end_of_turn} is put there, so that the model learns to stop",
                )
            )
        if "strftime_now" in str(tokenizer.chat_template):
            found.append(
                Problem(
                    "warning",
                    "the chat template writes the time or the date, so that prompts differ from day to "
                    "day and share no beginning: save one without strftime_now as chat_template.jinja",
                )
            )
    ids = template.prompt([{"role": "user", "content": chat_template.USER}])
    bos = tokenizer.bos_token_id
    if bos is not None and list(ids[:2]) == [bos, bos]:
        found.append(
            Problem(
                "error",
                f"prompts begin with two beginning-of-text tokens ({tokenizer.bos_token}): "
                "remove one of them from the chat template",
            )
        )
    return found


def _generation_prompt(tokenizer: Any, template: Template) -> Sequence[Problem]:
    """A template that ignores add_generation_prompt though its replies begin with a marker."""
    asked = chat_template.write(tokenizer, ("user", chat_template.USER), generate=True)
    plain = chat_template.write(tokenizer, ("user", chat_template.USER))
    full = chat_template.write(
        tokenizer, ("user", chat_template.USER), ("assistant", chat_template.REPLY)
    )
    lead = full[len(plain) :].partition(chat_template.REPLY)[0] if full.startswith(plain) else ""
    pattern = template.encoder.pattern
    if asked == plain and pattern and pattern.search(lead):
        return [
            Problem(
                "error",
                "the chat template has no generation prompt: add "
                "{% if add_generation_prompt %}"
                f"{{{{ {lead!r} }}}}"
                "{% endif %} at its end",
            )
        ]
    return []
