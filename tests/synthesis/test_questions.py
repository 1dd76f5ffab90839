"""Questions of documents: what they are asked about, and which of them measure no retrieval."""

from __future__ import annotations

import json

import pytest

from rung.synthesis import kinds
from rung.synthesis.kinds.base import Draft
from rung.synthesis.kinds.questions import focused
from rung.synthesis.sources import passages_of
from tests.synthesis.conftest import made_by, sentence, teaching

PASSAGE = (
    "The mill at Orrest was built in 1873 by Anna Holm. She ground barley there until the great flood. "
    "Today it holds a small museum of bread. Yes. A path leads from the mill down to the old harbour."
)


def drafted(question, answer):
    fields = {"question": question, "answer": answer}
    return Draft(index=0, topic="x", document="orrest.md", passage=PASSAGE, fields=fields)


def test_every_sentence_of_some_length_is_asked_about_and_none_of_another_passage():
    chosen = [" ".join(focused(PASSAGE, number)) for number in range(4)]
    assert all(part in PASSAGE.replace("Yes. ", "") for part in chosen)
    for start in ("The mill", "She ground", "Today it holds", "A path leads"):
        assert any(part.startswith(start) for part in chosen)
    assert focused("Short.", 3) == ["Short."]


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        ("Who built the mill at Orrest?", "Anna Holm", None),
        ("Which museum holds bread today?", "the mill at Orrest", None),
        ("Which elephants were painted yellow?", "Anna Holm", "not about the passage"),
        ("Who built the mill at Orrest?", "nobody knows any more", "answer not in the passage"),
    ],
)
def test_question_and_answer_stand_in_the_passage(question, answer, said):
    assert kinds.get("questions").refused(drafted(question, answer)) == said


def test_an_answer_that_the_passage_does_not_hold_becomes_the_nearest_sentence():
    kind, draft = kinds.get("questions"), drafted("Who ground barley until the flood?", "")
    draft.earlier = 1  # asked about from the second sentence on, in an order of its own
    sentences = focused(PASSAGE, draft.earlier)
    nearest = max(sentences, key=lambda s: sum(w in s for w in ("ground", "barley", "until", "flood")))
    assert kind.kept(draft, "answer", "Anna Holm") == "Anna Holm"
    assert kind.kept(draft, "answer", "A fast framework by another firm") == nearest
    assert kind.kept(draft, "answer", "the mill " * 30) == nearest  # cut by the limit
    assert kind.kept(draft, "question", "Where is it?") == "Where is it?"


def test_drafts_of_one_passage_are_of_different_sentences_however_many_documents_there_are(tmp_path):
    for i in range(4):  # as many as the passage has sentences
        (tmp_path / f"page{i}.md").write_text(PASSAGE)
    passages, asked = passages_of(str(tmp_path), lambda text: None), set()
    for index in range(16):
        draft = Draft(index=index, topic=f"page{index % 4}.md")
        passages.give(draft)
        asked |= {(draft.topic, kinds.get("questions").messages(0, "", draft)[-1]["content"])}
    assert len(asked) == 16


def test_the_teacher_is_shown_the_passage_last_and_its_purpose_apart():
    draft = drafted("", "")
    draft.angle, draft.written, draft.examples = "Write it briefly.", ("Who?",), ("What is barley?",)
    messages = kinds.get("questions").messages(0, "Answers about mills.", draft)
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert "Answers about mills." in messages[0]["content"]
    last = messages[-1]["content"]
    assert last.startswith("orrest: ") and "What is barley?" in last
    assert not any(text in last for text in ("mills", "briefly", "Who?"))


def test_a_question_that_other_passages_answer_too_is_refused(tmp_path, rung_home):
    for i in range(8):
        text = f"The {sentence(i)} keeper{i} is there since {1800 + i}, as every keeper is."
        (tmp_path / f"page{i}.md").write_text(text)
    passages = passages_of(str(tmp_path), lambda text: None)
    draft = Draft(index=0, topic="page7.md")
    passages.give(draft)
    assert passages.unfound(draft, "Since when is keeper7 there?") is None
    assert passages.unfound(draft, "Since when is keeper2 there, and keeper3, keeper4?")

    def vague(body):
        passage = body["messages"][-1]["content"].split("\n")[0].split()
        keeper = next(word for word in passage if word.startswith("keeper"))
        number = body["seed"] % 3
        about = keeper if number else "every keeper"
        asked = f"Since when is {about} there, and is that long, reader {body['seed']}?"
        return json.dumps({"question": asked, "answer": passage[-5].strip(",")})

    with teaching(vague) as teacher:
        made = made_by(teacher.name, documents=str(tmp_path), examples=8, similarity=1.0)
    assert made.refused["fits other passages better"]
    for row in made.rows:
        about = row["provenance"]
        draft.document, draft.passage, draft.gold = (about[k] for k in ("document", "passage", "gold"))
        assert passages.unfound(draft, row["question"]) is None
