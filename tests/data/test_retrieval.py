"""Passages: how they are cut, found, kept and measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rung.data.retrieval import Document, Index, Passage, cut, measure, quality
from rung.errors import ArtefactError, ConfigError, DataError
from rung.types import Example

TEXTS = {
    "care.md": "The filter is cleaned with vinegar once a month.",
    "warranty.md": "The warranty lasts five years and covers the pump.",
    "colours.md": "The pump comes in blue, the lid in white.",
    "noise.md": "At night the machine makes no more noise than a whisper.",
}
PASSAGES = [Passage(name, 1, text) for name, text in TEXTS.items()]


def asked(question, answer, gold=None):
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example(turns, gold=gold)


def embed(texts):
    """Vectors that know two themes, in words that BM25 does not see as the same."""
    themes = (("clean", "wash", "vinegar", "rinse"), ("night", "loud", "noise", "whisper"))
    found = [[sum(word in text.lower() for word in theme) for theme in themes] for text in texts]
    return np.array(found, np.float32) + 0.01


def names(hits):
    return [hit.passage.source for hit in hits]


# -- cutting ---------------------------------------------------------------------------------------


def test_paragraphs_stay_together_while_they_fit():
    text = "One two.\n\nThree four.\n\nFive six seven."
    assert [p.text for p in cut([Document("a", text)], words=5, overlap=0)] == [
        "One two.\n\nThree four.", "Five six seven.",
    ]  # fmt: skip


def test_a_passage_begins_with_the_end_of_the_one_before():
    words = [f"w{i}" for i in range(50)]
    passages = cut([Document("a", ". ".join(words))], words=20, overlap=5)
    for before, after in zip(passages, passages[1:], strict=False):
        assert after.text.split()[:5] == before.text.split()[-5:]
    assert all(len(p.text.split()) <= 20 for p in passages)
    assert [p.number for p in passages] == list(range(1, len(passages) + 1))
    assert [p.name for p in passages][:2] == ["a#1", "a#2"]


@pytest.mark.parametrize(
    "text",
    ["word " * 500, "x" * 5000, "水泵是蓝色的。" * 200, "One. " * 300, "a\n" * 400, "a b c\n\n" * 200],
)
@pytest.mark.parametrize("overlap", [0, 7])
def test_nothing_is_lost_and_no_passage_is_too_long(text, overlap):
    passages = cut([Document("a", text)], words=30, overlap=overlap)
    assert all(len(p.text.split()) <= 30 and len(p.text) <= 30 * 12 for p in passages)
    if not overlap:
        assert "".join("".join(p.text.split()) for p in passages) == "".join(text.split())


def test_overlap_must_be_smaller():
    with pytest.raises(ValueError, match="overlap"):
        cut([], words=5, overlap=5)


# -- finding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "source"),
    [
        ("How often is the FILTER cleaned?", "care.md"),
        ("How many years of warranty?", "warranty.md"),
        ("Is it noise at night", "noise.md"),
        ("lid", "colours.md"),
    ],
)
def test_words_find_their_passage(question, source):
    assert names(Index.of(PASSAGES).search(question, 2))[0] == source


def test_nothing_is_found_by_strange_words():
    index = Index.of(PASSAGES)
    assert index.search("zebra", 3) == [] and index.search("", 3) == [] and index.search("?!", 3) == []
    assert len(index.search("the", 50)) == 4
    with pytest.raises(DataError, match="no words"):
        Index.of([Passage("a", 1, "...")])


def test_vectors_find_what_words_do_not(rung_home):
    index = Index.of(PASSAGES, embed)
    assert index.search("wash it", 1, "bm25") == []
    assert names(index.search("wash it", 1, "vectors")) == ["care.md"]
    assert names(index.search("how loud", 1, "vectors")) == ["noise.md"]
    found = names(index.search("rinse the pump", 3, "hybrid"))
    assert "care.md" in found and {"warranty.md", "colours.md"} & set(found)
    assert [h.number for h in index.search("wash", 4, "vectors")] == [
        h.number for h in index.search("wash", 4, "vectors")
    ]


def test_an_index_comes_back_equal_and_unpickled(rung_home, tmp_path):
    from rung.artefacts import folders

    index = Index.of(PASSAGES, embed)
    folders.write(tmp_path / "index", index.save)
    folders.verify(tmp_path / "index")
    read = Index.load(tmp_path / "index", embed)
    assert read.passages == index.passages
    for mode in ("bm25", "vectors", "hybrid"):
        for question in ("clean the pump at night", "wash"):
            assert read.search(question, 4, mode) == index.search(question, 4, mode)
    suffixes = {p.suffix for p in (tmp_path / "index").rglob("*") if p.is_file()}
    assert suffixes == {".json", ".jsonl", ".npy", ".safetensors"}


def _short(folder):
    lines = (folder / "passages.jsonl").read_text().splitlines()
    (folder / "passages.jsonl").write_text("\n".join(lines[:-1]))


def _pickled(folder):
    (place,) = (folder / "bm25").glob("data*.npy")
    np.save(place, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        _short,
        _pickled,
        lambda f: (f / "passages.jsonl").write_text("{}\n"),
        lambda f: (f / "passages.jsonl").unlink(),
        lambda f: (f / "vectors.safetensors").write_bytes(b"x"),
        lambda f: next((f / "bm25").glob("indices*.npy")).write_bytes(b""),
        lambda f: next((f / "bm25").glob("vocab*")).write_text("[]"),
    ],
)
def test_damage_is_refused(tmp_path, damage):
    Index.of(PASSAGES, embed).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtefactError):
        Index.load(tmp_path, embed)


def test_without_vectors_only_words_can_be_asked(tmp_path, rung_home, monkeypatch):
    import sys

    with pytest.raises(ArtefactError, match="--retrieval bm25"):
        Index.of(PASSAGES).search("pump", 1, "vectors")
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ConfigError, match=r"pip install 'rung\[documents\]'"):
        Index.of(PASSAGES, embed).search("pump", 1, "vectors")


# -- measuring -------------------------------------------------------------------------------------


def query(example):
    return example.messages[0]["content"]


def test_retrieval_is_measured_by_named_documents():
    rows = [
        asked("filter vinegar", "-", "care.md"),
        asked("pump", "-", "warranty.md#1"),
        asked("zebra", "-", "noise.md"),
        asked("lid", "-", "nowhere.md"),
    ]
    index = Index.of(PASSAGES)
    rank = names(index.search("pump", 4)).index("warranty.md") + 1
    found = measure(index, rows, "bm25", query)
    assert found.rows == 3 and found.gold == "named by the rows"
    assert found.mrr == pytest.approx((1 + 1 / rank) / 3)
    assert found.recall[10] == pytest.approx(2 / 3)
    assert found.recall[1] == pytest.approx((1 + (rank == 1)) / 3)
    assert quality.unknown(index, rows) == ["nowhere.md"]
    assert json.dumps(found.metrics())


def test_else_by_the_passages_that_hold_the_answer():
    rows = [
        asked("How long is the warranty?", "Five years"),
        asked("Colour of the pump?", "blue"),
        asked("Too short to tell", "a"),
        asked("Not there", "purple"),
    ]
    found = measure(Index.of(PASSAGES), rows, "bm25", query)
    assert found.rows == 2 and found.gold == "contains the answer" and found.recall[3] == 1
    assert measure(Index.of(PASSAGES), rows[2:], "bm25", query) is None


def test_indexing_says_nothing(caplog):
    with caplog.at_level("DEBUG"):
        Index.of(PASSAGES).search("pump", 1)
    assert "bm25s" not in {record.name for record in caplog.records}
