"""What is caught before training starts."""

from __future__ import annotations

import pytest

from rung.data import Template, check, refuse, template_check, untrained_rows
from rung.data.problem import counted
from rung.data.split import Splits
from rung.errors import DataError
from rung.types import Example, Rendered
from tests.tokens import CHATML, tiny_tokenizer

from .conftest import NO_GENERATION_PROMPT, template, tokenizer


def row(user: str = "dog", reply: str = "fox", origin: str = "x:1") -> Example:
    messages = ({"role": "user", "content": user}, {"role": "assistant", "content": reply})
    return Example(messages=messages, origin=origin)


def errors(problems) -> list[str]:
    return [p.message for p in problems if p.severity == "error"]


def test_good_data_has_no_problems():
    one = template()
    assert check([one.render(row())], Splits((row(),)), one, max_length=512) == []


@pytest.mark.faults
def test_rows_without_a_supervised_token():
    one = template()
    good, cut = one.render(row()), one.render(row(origin="x:2"), max_length=3)
    (problem,) = check([good, cut])
    assert (problem.severity, problem.rows) == ("warning", ("x:2",))
    (problem,) = check([cut, cut])
    assert problem.severity == "error"
    with pytest.raises(DataError, match="no row has a single token to learn from"):
        refuse([problem])
    assert errors(check([]))
    # A first token cannot be predicted, so it does not count.
    assert errors(check([Rendered((5,), (True,), "x:3")]))


@pytest.mark.faults
def test_end_of_turn_that_is_not_learnt():
    one = template()
    whole = one.render(row())
    masked = Rendered(whole.ids, (*whole.supervised[:-1], False), "x:2")
    assert "<|im_end|>) is not learnt in 1 row (x:2)" in errors(check([masked], template=one))[0]
    assert [p.severity for p in check([whole, masked], template=one)] == ["warning"]


@pytest.mark.faults
def test_two_beginnings():
    one = template(bos=True)
    whole = one.render(row())
    double = Rendered((whole.ids[0], *whole.ids), (False, *whole.supervised), "x:2")
    assert "two beginning-of-text tokens (x:2)" in errors(check([double], template=one))[0]


@pytest.mark.faults
def test_template_without_generation_prompt():
    one = Template.of(tokenizer("bytes", NO_GENERATION_PROMPT))
    assert "add_generation_prompt" in errors(check([one.render(row())], template=one))[0]


def test_long_rows_are_named():
    (problem,) = check([template().render(row("dog " * 9))], max_length=20)
    assert problem.rows == ("x:1",)


def test_chat_tokens_the_base_never_trained():
    import torch

    one = template()
    rendered = [one.render(row())]
    embeddings = torch.randn(len(one.tokenizer), 8, generator=torch.Generator().manual_seed(0))
    assert check(rendered, template=one, untrained=untrained_rows(embeddings)) == []
    start, end = (one.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    embeddings[start] = embeddings[end]
    (problem,) = check(rendered, template=one, untrained=untrained_rows(embeddings))
    assert "<|im_start|>, <|im_end|>" in problem.message
    embeddings[start] = 0
    (problem,) = check(rendered, template=one, untrained=untrained_rows(embeddings))
    assert "<|im_start|>:" in problem.message


def test_every_error_is_told_at_once():
    one = Template.of(tokenizer("bytes", NO_GENERATION_PROMPT))
    with pytest.raises(DataError, match="no rows are left.*generation prompt"):
        refuse(check([], template=one))


def test_tokens_that_the_base_has_no_embedding_for_are_named():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|more|>"])
    template = Template.of(tokenizer)
    ids = (tokenizer.convert_tokens_to_ids("<|more|>"), *template.stop_ids)
    rows = [Rendered(ids, (False, True), "row 1")]
    found = check(rows, template=template, vocabulary=len(tokenizer) - 1)
    assert any(p.severity == "error" and "<|more|>" in p.message for p in found)
    assert not any("<|more|>" in p.message for p in check(rows, template=template, vocabulary=400))


@pytest.mark.parametrize(
    ("chat_template", "words"),
    [
        ({"tool_use": CHATML, "rag": CHATML}, "rag, tool_use.*none called default"),
        (
            "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %}"
            "{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}",
            "lists of parts",
        ),
    ],
)
def test_templates_that_render_no_plain_message_are_refused(chat_template, words):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = chat_template
    with pytest.raises(DataError, match=words):
        Template.of(tokenizer)


def test_a_template_that_writes_the_time_is_told():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%H:%M') }}" + CHATML
    problems = template_check.problems(Template.of(tokenizer))
    assert any("time or the date" in p.message for p in problems)


def test_counts_are_told_in_the_right_number():
    assert counted(1, "row") == "1 row" and counted(0, "row") == "0 rows"
    assert counted(["a"], "row is", "rows are") == "1 row is"
    assert counted(1200, "row is", "rows are") == "1,200 rows are"
