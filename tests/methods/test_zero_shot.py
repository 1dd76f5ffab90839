"""System prompts: what is tried, what is chosen, what comes back."""

from __future__ import annotations

import pytest

from rung import methods
from rung.errors import ArtefactError, ConfigError
from rung.evals import kinds
from rung.methods.zero_shot import OWN_PROMPTS, SystemPrompt, candidates, prompts
from rung.types import Task
from tests.methods.asking import YES_NO, again, answering, row, rows, study

KINDS = ("classification", "extraction", "question_answering", "translation", "generation")
ZERO = methods.get("zero_shot")


def system_of(messages):
    return messages[0]["content"] if messages[0]["role"] == "system" else ""


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_task_has_prompts_and_the_conversation_as_it_is(kind):
    labels = YES_NO.labels if kind == "classification" else ()
    found = candidates(Task(kind, "accuracy", labels), rows(4, "x"), [])
    assert found[0].name == "as it is" and found[0].conversation == SystemPrompt()
    assert len(found) >= 3 and len({c.name for c in found}) == len(found)
    texts = [c.conversation.text for c in found[1:]]
    assert all("{" not in text for text in texts)
    assert all(("no, yes" in text) is (kind == "classification") for text in texts)


def test_prompts_of_the_data_are_kept_sharpened_or_replaced():
    own = [row("q", "no", system="Be kind.")]
    by_name = {c.name: c.conversation for c in candidates(YES_NO, own, ["Say {labels}!"])}
    before = own[0].messages[:-1]
    assert system_of(by_name["as it is"].messages(before)) == "Be kind."
    assert system_of(by_name["replace 1"].messages(before)) == "Say no, yes!"
    assert system_of(by_name["sharpen 1"].messages(before)) == "Be kind.\n\nSay no, yes!"
    assert all(len(c.messages(before)) == 2 for c in by_name.values())


def test_many_labels_are_not_listed():
    task = Task("classification", "accuracy", tuple(f"l{i}" for i in range(40)))
    assert not any("{labels}" in text for text in kinds.of(task).system_prompts(task).values())


def test_own_prompts_come_from_texts_and_files(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n two\u2028lines \none\n")
    (tmp_path / "p.json").write_text('["three"]')
    (tmp_path / "p.yaml").write_text("- four\n- five\n")
    given = ["zero", *(str(tmp_path / name) for name in ("p.txt", "p.json", "p.yaml"))]
    assert prompts(given) == ["zero", "one", "two\u2028lines", "three", "four", "five"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no.txt", None, "cannot read"),
        ("p.json", b"{", "cannot be parsed"),
        ("p.yaml", b"a: [", "cannot be parsed"),
        ("p.json", b'{"a": 1}', "a list of texts"),
        ("p.txt", b"\xff\xfe\xff", "not UTF-8"),
        ("p.txt", b"\n \n", "no prompt"),
    ],
)
def test_faults_of_prompt_files_are_named(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        prompts([str(tmp_path / name)])


def test_the_prompt_that_wins_is_kept_with_every_figure(tmp_path, monkeypatch):
    made = study(tmp_path / "run")
    answering(
        monkeypatch,
        lambda m, e: e.messages[-1]["content"] if "magic" in system_of(m) else "no",
    )
    config = ZERO.Config(system_prompts=["plain words", "magic words"])
    fitted = ZERO.fit(made, config)
    assert fitted.adapter.conversation == SystemPrompt("magic words", labels=YES_NO.labels)
    assert fitted.metrics["choice"] == "add 2"
    assert fitted.metrics["choice_accuracy of add 2"]["value"] == 1
    assert fitted.metrics["choice_accuracy of as it is"]["value"] == 0.5
    assert again(fitted.adapter, "zero_shot", made, tmp_path / "model") == fitted.adapter.conversation


def test_where_no_prompt_helps_nothing_is_changed(tmp_path, monkeypatch):
    answering(monkeypatch, lambda m, e: "no")
    fitted = ZERO.fit(study(tmp_path), ZERO.Config())
    assert fitted.adapter.conversation == SystemPrompt(labels=YES_NO.labels)


def test_prompts_that_do_not_fit_are_not_tried(tmp_path, monkeypatch):
    made = study(tmp_path, context=200)
    asked = answering(monkeypatch, lambda m, e: "no")
    ZERO.fit(made, ZERO.Config(system_prompts=["long " * 60, "short"]))
    assert {name for name, _ in asked} == {"as it is", "add 2"}
    assert "1 prompt is too long" in made.notes[0]


def test_plain_text_is_refused_and_damage_is_named():
    refused = ZERO.unsuited(Task("language_modelling", "perplexity"), ZERO.Config())
    assert "--user and --assistant" in refused
    with pytest.raises(ArtefactError, match="settings.json"):
        ZERO.from_files({"text": 3, "replaces": True}, {}, None)


def test_each_kind_of_task_brings_as_many_prompts_as_a_plan_counts():
    for name in kinds.names():
        assert len(kinds.get(name).system_prompts(YES_NO)) == OWN_PROMPTS
