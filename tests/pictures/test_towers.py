"""Towers: two frozen encoders in one space. The loss, what is learnt, kept, served and named."""

from __future__ import annotations

import base64
import json

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import rung
from rung import bases
from rung.errors import ArtefactError, ConfigError, MethodMisfit
from rung.evals.retrieval import recall
from rung.methods import artefact
from rung.methods.pictures.contrastive import Pairs, loss
from rung.pictures import picture
from tests.pictures.conftest import COLOURS, as_bytes, drawn
from tests.pictures.test_server import url
from tests.server.conftest import serve


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory):
    """A tiny BERT of whole words."""
    import transformers as hf

    from tests.pictures.conftest import words_tokenizer

    folder = tmp_path_factory.mktemp("text")
    torch.manual_seed(4)
    config = hf.BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip
    hf.BertModel(config).save_pretrained(folder)
    words_tokenizer(folder, ["red", "green", "blue", "a", "picture", "of", "something", "one", "two"])
    return folder


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    root = tmp_path_factory.mktemp("captions")
    rows = []
    for name, colour in COLOURS.items():
        for i in range(14):
            (root / f"{name}{i}.png").write_bytes(as_bytes(drawn(colour, seed=i)))
            caption = f"a picture of something {name}" if i % 2 else f"{name} picture"
            rows.append({"image": f"{name}{i}.png", "caption": caption, "kind": name})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root / "captions.jsonl"


@pytest.fixture(scope="module")
def pair(home, captions, encoder_folder, text_encoder):
    return rung.tune(
        "pair", str(captions), method="towers", vision=str(encoder_folder("dinov2")),
        text=str(text_encoder), assistant="{caption}", validation=0.25, test=0.0, replace=True,
        device="cpu", contrastive_steps=200, shared_width=8,
    )  # fmt: skip


@given(st.integers(0, 10**6), st.integers(2, 7))
def test_the_loss_is_that_of_clip_where_every_caption_is_its_own(seed, n):
    generator = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, 5, generator=generator), dim=1) for _ in range(2))
    logits, at = 7.0 * a @ b.T, torch.arange(n)
    expected = (F.cross_entropy(logits, at) + F.cross_entropy(logits.T, at)) / 2
    torch.testing.assert_close(loss(a, b, torch.eye(n), torch.tensor(7.0)), expected)


def test_rows_of_one_caption_or_picture_belong_together():
    found = Pairs.of(torch.zeros(4, 2), torch.zeros(4, 3), ["a", "b", "a", "c"], ["p", "q", "r", "q"])
    assert found.alike.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(1, 4))
def test_recall_counts_by_hand(seed, n, k):
    generator = torch.Generator().manual_seed(seed)
    queries, found = (torch.randn(n, 4, generator=generator) for _ in range(2))
    alike = torch.eye(n)
    one = recall(queries, found, alike, (k,))[0]
    hits = 0
    for i in range(n):
        scores = [float(queries[i] @ f) for f in found]
        hits += sum(s > scores[i] for s in scores) < k
    assert one.value == hits / n and one.low <= one.value <= one.high
    assert one.chance == pytest.approx(min(k, n) / n)


def test_towers_find_what_belongs_together_in_pictures_they_have_not_seen(pair, captions):
    towers = pair.adapter.towers
    fresh = [picture(as_bytes(drawn(colour, seed=99)))[0] for colour in COLOURS.values()]
    with torch.no_grad():
        near = towers.of_pictures(fresh) @ towers.of_texts([f"{n} picture" for n in COLOURS]).T
    assert near.argmax(1).tolist() == [0, 1, 2]
    metrics = pair.metrics
    assert metrics["validation_recall_at_5_picture_to_text"] >= 0.8
    low = metrics["validation_recall_at_5_picture_to_text_low"]
    assert 0 < low <= metrics["validation_recall_at_5_picture_to_text"]


def test_the_folder_gives_the_same_vectors_and_refuses_other_encoders(pair, tmp_path):
    import shutil

    from rung.artefacts import folders
    from rung.forward.opening import open_bank

    fresh = open_bank(bases.resolve(pair.prepared.base.spec)).bank
    adapter, about = artefact.load(pair.model.folder, fresh)
    assert about["method"] == "towers"
    with torch.no_grad():
        shown = [picture(as_bytes(drawn(COLOURS["red"])))[0]]
        for one, other in (
            (adapter.towers.of_pictures(shown), pair.adapter.towers.of_pictures(shown)),
            (adapter.towers.of_texts(["red"]), pair.adapter.towers.of_texts(["red"])),
        ):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    folder = tmp_path / "pair"
    shutil.copytree(pair.model.folder, folder)
    (folder / folders.MANIFEST).unlink()
    settings = json.loads((folder / "settings.json").read_text())
    settings["text_encoder"]["digest"] = "0" * 64
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ArtefactError, match="other weights"):
        artefact.load(folder, fresh)


def test_the_lineage_has_both_encoders(pair):
    kinds = [n.kind for n in rung.Store.open().lineage("pair").walk()]
    assert kinds.count("base") == 2


def test_labels_are_told_by_their_names(pair, captions):
    rows = [json.loads(line) for line in captions.read_text().splitlines()]
    labelled = captions.with_name("labelled.jsonl")
    labelled.write_text(
        "\n".join(json.dumps({"image": r["image"], "label": f"{r['kind']} picture"}) for r in rows)
    )
    found = rung.evaluate("pair", data=str(labelled), validation=0.0, test=0.5, device="cpu")["pair"]
    assert found.value >= 0.8


@pytest.fixture(scope="module")
def server(pair):
    from rung.models import load

    served = serve(load(["pair"], memory=1 << 28).engine)
    yield served
    served.stop()


def test_vectors_of_pictures_and_texts_are_served(pair, server):
    data = as_bytes(drawn(COLOURS["green"], seed=5))
    asked = {"model": "pair", "input": ["green picture", url(data), "red picture"]}
    with httpx.Client(base_url=server.url, timeout=30) as http:
        answer = http.post("/v1/embeddings", json=asked)
        assert answer.status_code == 200, answer.text
        vectors = np.array([one["embedding"] for one in answer.json()["data"]])
        coded = http.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()
        again = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in coded["data"]]
        np.testing.assert_allclose(np.array(again), vectors, atol=1e-6)
        short = http.post("/v1/embeddings", json={**asked, "dimensions": 3}).json()["data"]
        assert len(short[0]["embedding"]) == 3
    towers = pair.adapter.towers
    with torch.no_grad():
        expected = torch.cat([
            towers.of_texts(["green picture"]), towers.of_pictures([picture(data)[0]]),
            towers.of_texts(["red picture"]),
        ])  # fmt: skip
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)
    assert vectors[1] @ vectors[0] > vectors[1] @ vectors[2]


@pytest.mark.parametrize(
    ("given_input", "told"),
    [
        ("data:image/png;base64,@@", "no valid base64"),
        (url(b""), "empty"),
        ([[1, 2]], "no token ids"),
        ("", "empty"),
    ],
)
def test_what_is_neither_text_nor_picture_is_refused(given_input, told, server):
    with httpx.Client(base_url=server.url, timeout=30) as http:
        answer = http.post("/v1/embeddings", json={"model": "pair", "input": given_input})
        assert answer.status_code == 400 and told in answer.json()["error"]["message"]
        message = {"role": "user", "content": "Hello"}
        talk = http.post("/v1/chat/completions", json={"model": "pair", "messages": [message]})
        assert talk.status_code == 400


def test_towers_refuse_what_they_cannot_learn(home, captions, text_encoder, encoder_folder, tmp_path):
    common = {"method": "towers", "replace": True, "device": "cpu", "assistant": "{caption}"}
    with pytest.raises(MethodMisfit, match="give 8 at least"):
        rung.tune(
            "no", str(captions), vision=str(encoder_folder("dinov2")), text=str(text_encoder), limit=6,
            **common,
        )  # fmt: skip
    with pytest.raises(ConfigError, match="belongs to"):
        rung.tune("no", str(captions), virtual_tokens=4, **common)
