"""Methods on pictures: what they learn, what they refuse, and that a kept model answers alike."""

from __future__ import annotations

import contextlib
import io
import json
import secrets

import numpy as np
import pytest
import torch

import rung
from rung import bases, methods
from rung.errors import ConfigError, DataError, MethodMisfit, RungError
from rung.evals.tasks import question
from rung.forward.opening import open_bank
from rung.forward.picture_bank import PictureBank
from rung.methods import artefact
from tests.pictures.conftest import COLOURS, as_bytes, asked, drawn, tuned

LEARNS = ("linear_probe", "few_shot", "last_layers", "full", "scratch", "lora")


@pytest.fixture(scope="module")
def models(home, photos, encoder_folder):
    """A model of each method on the tiny SigLIP encoder, by the method's name."""
    base = encoder_folder("siglip")
    return {
        m: tuned(m.replace("_", "-"), m, base, photos, **({"epochs": 3} if m == "full" else {}))
        for m in LEARNS
    }


@pytest.mark.parametrize("method", LEARNS)
def test_a_method_tells_colours_apart_on_pictures_it_has_not_seen(method, models, photos, home):
    found = rung.evaluate(
        models[method].model.name, data=str(photos), validation=0.2, test=0.2, device="cpu"
    )
    value = found[models[method].model.name].value
    assert value >= 0.8, f"{method}: accuracy {value} on colours"


@pytest.mark.parametrize("method", LEARNS)
def test_a_kept_model_answers_as_it_did_when_it_was_made(method, models, photos):
    made = models[method]
    prompts = [asked(photos, label, n) for label in COLOURS for n in range(3)]
    bank = made.prepared.bank
    slot = bank.add(made.adapter)
    before = made.adapter.classifier.probabilities(bank, slot, prompts)
    bank.remove(slot)
    fresh = open_bank(bases.resolve(made.prepared.base.spec)).bank
    adapter, about = artefact.load(made.model.folder, fresh)
    assert about["method"] == method
    after = adapter.classifier.probabilities(fresh, fresh.add(adapter), prompts)
    assert torch.allclose(before, after, atol=1e-6)  # other pictures stood in the same pass


def test_models_of_one_encoder_answer_side_by_side_as_each_alone(models, photos):
    bank = models["linear_probe"].prepared.bank
    prompts = [asked(photos, label) for label in COLOURS]
    slots = {m: bank.add(models[m].adapter) for m in LEARNS}
    alone = {
        m: models[m].adapter.classifier.probabilities(models[m].prepared.bank,
                                                      models[m].prepared.bank.add(models[m].adapter),
                                                      prompts)
        for m in LEARNS
    }  # fmt: skip
    for method in (*LEARNS, *reversed(LEARNS)):
        classifier = models[method].adapter.classifier
        assert torch.equal(classifier.probabilities(bank, slots[method], prompts), alone[method])
    for slot in slots.values():
        bank.remove(slot)


def test_the_encoder_itself_is_not_changed_by_what_is_trained_on_it(models, encoder_folder):
    fresh = open_bank(bases.resolve(str(encoder_folder("siglip")))).bank
    for method in ("last_layers", "full"):
        trained = models[method].prepared.bank.model.state_dict()
        assert all(torch.equal(t, trained[n]) for n, t in fresh.model.state_dict().items())


def test_last_layers_changes_the_last_blocks_alone(models):
    names = models["last_layers"].adapter.weights
    assert names and all("encoder.layers.0." not in n and "embeddings" not in n for n in names)
    assert any("encoder.layers.2." in n for n in names)
    assert all(n.startswith("vision_model.") for n in models["full"].adapter.weights)
    assert any("embeddings" in n for n in models["full"].adapter.weights)


def test_a_picture_is_encoded_once_however_often_it_is_asked(home, photos, encoder_folder):
    bank = open_bank(bases.resolve(str(encoder_folder("dinov2")))).bank
    assert isinstance(bank, PictureBank)
    shown = asked(photos, "red").messages[0]["pictures"]
    first = bank.features(shown)
    again = bank.features([*shown] * 5)
    assert bank.encoded == 1 and torch.equal(again, first.expand(5, -1))


def test_features_on_disk_are_those_that_were_computed(home, encoder_folder):
    from rung.pictures import picture

    info = bases.resolve(str(encoder_folder("convnext")))
    new = secrets.randbits(60)  # the cache outlives a run of the tests
    shown = [picture(as_bytes(drawn(c, seed=new + n)))[0] for n, c in enumerate(COLOURS.values())]
    first, second = open_bank(info).bank, open_bank(info).bank
    made = first.features(shown, keep=True)
    assert torch.equal(second.features(shown, keep=True), made)
    assert (first.encoded, second.encoded) == (len(shown), 0)


def test_zero_shot_by_names_follows_clip(home, photos, encoder_folder):
    """The scores of a bare CLIP are the softmax of its own logits per image."""
    from rung.forward.picture_classifier import Nearest
    from tests.pictures.conftest import made

    bank = open_bank(bases.resolve(str(encoder_folder("clip")))).bank
    labels = tuple(sorted(COLOURS))
    prompts = [asked(photos, label) for label in labels]
    found = Nearest.by_name(bank.encoder, labels, ("a photo of {}",)).probabilities(bank, -1, prompts)
    given = bank.encoder.tokenizer(
        [f"a photo of {label}" for label in labels], padding="max_length", max_length=16,
        return_tensors="pt",
    )  # fmt: skip
    pixels = bank.encoder.pixels([p.messages[0]["pictures"][0] for p in prompts])
    with torch.no_grad():
        expected = made("clip")(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], pixel_values=pixels
        ).logits_per_image.softmax(1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_zero_shot_makes_a_model_of_names(home, photos, encoder_folder):
    made = tuned("names", "zero_shot", encoder_folder("clip"), photos)
    assert made.adapter.classifier.labels == tuple(sorted(COLOURS))
    assert made.metrics["choice"] in ("name", "sentence", "ensemble")


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        ("zero_shot", {}, "no text tower, so labels mean nothing to it"),
        ("ia3", {}, "method for text, and this base reads pictures"),
        ("lora", {"text_tower": True}, "no text tower: leave --text-tower out"),
        ("lora", {"dropout": 0.1}, "--dropout means nothing on bases that read pictures"),
        ("lora", {"targets": ["gate_proj"]}, "'gate_proj' names no projection of this base"),
        ("prompt_tuning", {}, "no text tower, so labels mean nothing to it"),
        ("scratch", {"heads": 2}, "--heads means nothing on bases that read pictures"),
        ("tfidf", {}, "method for text, and this base reads pictures"),
        ("linear_probe", {"encoder": "minilm"}, "leave them out for pictures"),
        ("last_layers", {"layers": 99}, "more than the encoder's 3 blocks"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(method, settings, told, home, photos, encoder_folder):
    with pytest.raises((MethodMisfit, ConfigError), match=told) as fault:
        tuned("no", method, encoder_folder("vit"), photos, **settings)
    assert "\n" not in str(fault.value)


def test_texts_for_a_picture_base_and_pictures_for_a_text_base_are_refused(
    home, photos, encoder_folder, tmp_path
):
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(30)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(RungError, match="have no picture"):
        tuned("no", "linear_probe", encoder_folder("vit"), tmp_path / "t.jsonl")
    scratch = "scratch:layers=1,width=32,heads=2,vocab=300,context=64"
    with pytest.raises(DataError, match="reads no pictures"):
        tuned("no", "last_layers", scratch, photos, layers=1)


def test_a_model_of_pictures_prepared_otherwise_is_refused(models, encoder_folder, tmp_path):
    source = encoder_folder("siglip")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    said = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said | {"resample": 0}))
    bank = open_bank(bases.resolve(str(tmp_path))).bank
    with pytest.raises(RungError, match="prepared in another way"):
        artefact.load(models["linear_probe"].model.folder, bank)


def test_a_bare_encoder_without_names_says_that_it_has_no_labels(home, photos, encoder_folder):
    with pytest.raises(RungError, match="reads no texts, only pictures"):
        rung.evaluate(str(encoder_folder("vit")), data=str(photos), device="cpu")


def test_every_method_says_what_it_is_on_pictures():
    for name in methods.names():
        variant = methods.get(name).on("pictures")
        assert variant.name == name and variant.summary
        assert variant.modality in ("text", "pictures")
        assert variant.Config is methods.get(name).Config
    assert {n for n in methods.names() if methods.get(n).on("pictures").modality == "pictures"} >= {
        *LEARNS, "zero_shot",
    }  # fmt: skip


@pytest.fixture(scope="module")
def climbed(home, photos, encoder_folder):
    with contextlib.redirect_stdout(io.StringIO()):
        return rung.climb(
            str(photos), base=str(encoder_folder("siglip")), bar="accuracy=0.95", budget="2m",
            validation=0.25, test=0.25, all=True, dtype="float32", device="cpu",
            only=["linear_probe", "few_shot", "zero_shot", "scratch", "lora", "prompt_tuning"],
        )  # fmt: skip


def test_a_climb_on_pictures_has_a_table_intervals_and_a_verdict(climbed):
    rows = {r.key: r for r in rung.Store.open().climbs.rungs(climbed.climb.id)}
    probe = rows["linear_probe"].metrics["validation"]
    assert (
        rows["linear_probe"].status == "succeeded" and probe["low"] <= probe["value"] <= probe["high"]
    )
    for method in ("zero_shot", "lora", "prompt_tuning"):
        assert rows[method].status == "succeeded", rows[method].reason
    assert rows["base"].status == "succeeded", rows["base"].reason
    assert climbed.climb.verdict["winner"] in rows
    assert "accuracy" in json.dumps(climbed.climb.verdict)


def test_predictions_do_not_depend_on_who_else_is_asked(models, photos):
    """One by one and together: the same label, and the same probabilities within rounding."""
    made = models["linear_probe"]
    bank = open_bank(bases.resolve(made.prepared.base.spec)).bank
    prompts = [asked(photos, label, n) for label in COLOURS for n in range(3)]
    classifier = made.adapter.classifier
    together = classifier.probabilities(bank, -1, prompts)
    fresh = open_bank(bases.resolve(made.prepared.base.spec)).bank
    alone = torch.cat([classifier.probabilities(fresh, -1, [p]) for p in prompts])
    assert np.allclose(together, alone, atol=1e-5)
    assert together.argmax(1).tolist() == alone.argmax(1).tolist()


def test_questions_of_examples_keep_their_picture(photos):
    from rung.data import DataKnobs, load

    example = load(DataKnobs(data=str(photos))).examples[0]
    assert question(example)[0]["pictures"][0].place.endswith(".png")


def test_the_report_shows_the_pictures_that_were_taken_for_others(climbed, home, monkeypatch):
    """Thumbnails stand in the page itself, small; a picture that has changed is named in its place."""
    import base64
    import re
    from dataclasses import replace as changed

    from PIL import Image

    from rung.ladder import lessons, report
    from rung.ladder.scorecard import Scorecard
    from rung.types import Picture

    store = rung.Store.open()
    card = Scorecard.of(store, climbed.climb)
    rows = list(report.validation_rows(card))
    records = store.climbs.rungs(climbed.climb.id)
    for record in records:  # as if the first rows had been answered wrongly by all
        if record.items.get("validation", {}).get("values"):
            record.items["validation"]["values"][:5] = [0.0] * 5
    lost = rows[1].messages[0]["pictures"][0]
    gone = {**rows[1].messages[0], "pictures": (Picture("0" * 64, lost.place, lost.name),)}
    rows[1] = changed(rows[1], messages=(gone, *rows[1].messages[1:]))
    found = lessons.lessons(rows, records, card.winner, False)
    assert {le.origin for le in found} >= {row.origin for row in rows[:5]}
    shown = {le.origin: le.pictures for le in found}
    assert shown[rows[1].origin] == ((lost.name, None),)
    for row in (rows[0], *rows[2:5]):
        ((name, url),) = shown[row.origin]
        data = base64.b64decode(url.partition(",")[2])
        small = Image.open(io.BytesIO(data))
        assert len(data) <= lessons.THUMBNAIL_BYTES and small.size == (40, 30)
        assert name == row.messages[0]["pictures"][0].name
    monkeypatch.setattr(report, "_lessons", lambda *_: found)
    page = report.render(store, card)
    links = re.findall(r'<img src="([^"]*)"', page)
    assert links == [url for le in found for _, url in le.pictures if url] and len(links) >= 4
    assert f"{lost.name} is no longer what it was" in page and "http://" not in page


def test_a_thumbnail_keeps_to_its_bytes():
    from rung.pictures import picture, reading

    noise = np.random.default_rng(0).integers(0, 256, (400, 900, 3)).astype(np.uint8)
    from PIL import Image

    shown = picture(as_bytes(Image.fromarray(noise)))[0]
    for most in (12_000, 3_000, 900):
        assert len(reading.thumbnail(shown, 160, most)) <= most * 4 / 3 + 32
