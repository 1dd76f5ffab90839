"""A model from scratch: shaped by its data, complete in its folder, served and built upon as a base."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from rung import bases, methods
from rung.artefacts import folders
from rung.errors import BaseNotFound, ConfigError
from rung.methods import artefact
from rung.store import Store
from rung.train.job import tune
from rung.train.plan import Plan

TINY = {"method": "scratch", "depth": 2, "width": 32, "vocabulary": 300, "context": 128}
FAST = {"dtype": "float32", "device": "cpu", "epochs": 2, "batch_size": 16}


@pytest.fixture
def quotes(tmp_path: Path) -> Path:
    path = tmp_path / "quotes.jsonl"
    words = ["rise", "shine", "go on", "try again", "be kind", "hold fast"]
    rows = [
        {"prompt": f"Coach me, number {i}.", "completion": f"{words[i % 6]} and {words[i % 5]}!"}
        for i in range(90)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan(name, data, **settings):
    return Plan.of(name, {**TINY, **FAST, "data": str(data), **settings})


def test_its_folder_is_a_whole_base(rung_home, quotes, tmp_path):
    outcome = tune(plan("mine", quotes))
    folder = folders.model_folder("mine")
    folders.verify(folder)
    needed = {"config.json", "model.safetensors", "tokenizer.json", "rung.json", "settings.json"}
    assert needed <= {p.name for p in folder.iterdir()}
    assert json.loads((folder / "settings.json").read_text())["width"] == 32
    # Taken to a place that knows nothing of how it came about.
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    base = bases.load(bases.resolve(str(elsewhere)))
    assert sum(p.numel() for p in base.model.parameters()) == outcome.cost["parameters"]
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(elsewhere).config.hidden_size == 32


def test_it_is_served_without_what_it_was_made_from(rung_home, quotes):
    from rung.engine import GenerationRequest
    from rung.models import load_engine
    from rung.types import Decoding

    tune(plan("mine", quotes, epochs=20))
    about = artefact.about(folders.model_folder("mine"))
    assert about["base"]["spec"] == "model:mine"
    shutil.rmtree(bases.resolve(about["begun_from"]).path)
    engine = load_engine(["mine"])
    prompt = engine.model("mine").prompt([{"role": "user", "content": "Coach me, number 7."}])
    answer = engine.generate([GenerationRequest("mine", prompt, Decoding(max_tokens=12))])[0]
    assert answer.text.endswith("!") and " and " in answer.text, answer.text


def test_it_can_be_built_upon(rung_home, quotes):
    tune(plan("mine", quotes))
    child = {"base": "model:mine", "method": "lora", "data": str(quotes), **FAST}
    tune(Plan.of("child", child))
    assert Store.open().models.get("child").base == Store.open().models.get("mine").base
    with pytest.raises(BaseNotFound, match="adapter, no base of its own"):
        bases.resolve("model:child")
    with pytest.raises(BaseNotFound, match="not on this machine"):
        bases.resolve("model:nobody")


def test_it_knows_the_test_rows_by_bits_per_byte_and_how_it_learned(rung_home, quotes):
    outcome = tune(plan("mine", quotes, epochs=4))
    metrics = outcome.metrics
    assert metrics["test_loss"] < metrics["test_loss_of_base"]
    # A reply of some 20 bytes is fewer tokens; what it costs in all is the same in both units.
    assert 0 < metrics["test_bits_per_byte"] < metrics["test_loss"] / math.log(2)
    history = artefact.about(folders.model_folder("mine"))["history"]
    seen = [entry["tokens_seen"] for entry in history]
    assert seen == sorted(seen) and seen[0] > 0 and seen[-1] == outcome.cost["tokens"]
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]


def test_the_same_plan_gives_the_same_model(rung_home, quotes):
    tune(plan("one", quotes))
    tune(plan("two", quotes))
    first, second = (folders.model_folder(n) / "model.safetensors" for n in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    again = plan("x", quotes)
    assert Plan.of("x", again.settings()) == again


def test_size_follows_the_text():
    from rung.bases.scratch import parse

    sizes = [parse("scratch:", characters) for characters in (0, 10**6, 10**7, 10**9)]
    assert [s.width for s in sizes] == sorted(s.width for s in sizes)
    assert sizes[0].width < sizes[-1].width and sizes[0].vocab < sizes[-1].vocab
    for size in sizes:
        assert size.width % (2 * size.heads) == 0
    assert parse("scratch:width=48,vocab=400", 10**9).vocab == 400
    assert parse("scratch:width=20").heads == 1


def test_the_tokenizer_has_seen_training_rows_only(rung_home, tmp_path):
    parts = {}
    for part, word in (("data", "zebra"), ("validation_data", "quokka"), ("test_data", "quokka")):
        path = parts[part] = tmp_path / f"{part}.jsonl"
        rows = [{"prompt": f"{part} {i}", "completion": f"{word} {i}"} for i in range(40)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tune(Plan.of("mine", {**TINY, **FAST, **{k: str(v) for k, v in parts.items()}}))
    tokenizer = bases.load(bases.resolve("model:mine")).tokenizer
    assert len(tokenizer.encode(" zebra")) < len(tokenizer.encode(" quokka"))


def test_labels_are_told_apart(rung_home, tmp_path):
    from rung.data import DataKnobs, load
    from rung.evals.measure import measure
    from rung.evals.predict import predict
    from rung.evals.tasks import detect
    from rung.models import load_engine

    path = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": f"{('sun', 'rain')[i % 2]} in town {i}", "completion": ("good", "bad")[i % 2]}
        for i in range(200)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tune(plan("mine", path, epochs=6))
    examples = list(load(DataKnobs(data=str(path))).examples)
    task = detect(examples)
    engine = load_engine(["mine"])
    answers = predict(engine.bank, engine.model("mine"), examples, task)
    assert task.kind == "classification" and measure(answers, examples, task).value > 0.9


def test_what_makes_no_sense_is_refused(rung_home, quotes):
    with pytest.raises(ConfigError, match="--quantize int8 does not go with scratch"):
        plan("mine", quotes, quantize="int8")
    with pytest.raises(ConfigError, match="multiple of twice its"):
        tune(plan("mine", quotes, width=30, heads=4))
    assert methods.get("scratch").base_spec(methods.get("scratch").Config()) == "scratch:"
