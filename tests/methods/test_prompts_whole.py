"""The methods without weights from `tune` to a served model, and on a real base."""

from __future__ import annotations

import json

import pytest

from rung.artefacts import folders
from rung.errors import ConfigError, MethodMisfit
from rung.exports.export import export
from rung.library.model import Model
from rung.store import Store
from rung.train.job import tune
from rung.train.plan import Plan
from tests.train.conftest import SCRATCH

FAST = {"base": SCRATCH, "dtype": "float32", "max_length": 200, "choose_rows": 6}
NAMES = ("zero_shot", "few_shot", "chain_of_thought", "rag")


@pytest.fixture
def labelled(tmp_path):
    """Rows whose label is a word of the text, and documents that say so."""
    path = tmp_path / "rows.jsonl"
    lines = [{"text": f"item {i} is {'ab'[i % 2]}", "label": "ab"[i % 2]} for i in range(60)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "items.md").write_text("Each item is a or b.")
    return path


def settings(method, tmp_path):
    own = {
        "few_shot": {"shots": [1, 2]},
        "chain_of_thought": {"reasoning_tokens": 8, "samples": 2},
        "rag": {"documents": str(tmp_path / "docs"), "passages": [1]},
    }
    return own.get(method, {})


@pytest.mark.parametrize("method", NAMES)
def test_from_data_to_a_served_model(rung_home, tmp_path, labelled, method):
    from rung.engine import GenerationRequest
    from rung.models import load_engine
    from rung.types import Decoding

    own = settings(method, tmp_path)
    outcome = tune(Plan.of("asked", {**FAST, "data": str(labelled), "method": method, **own}))
    assert outcome.metrics["choice"] and outcome.cost["parameters"] == 0
    record = Store.open().models.get("asked")
    folder = folders.model_folder("asked")
    folders.verify(folder)
    assert record.method == method and not list(folder.rglob("*weights*"))
    card = (folder / "README.md").read_text()
    assert "rung chat asked" in card and "objective" not in card.split("## Settings")[0]
    engine = load_engine(["asked"])
    model = engine.model("asked")
    asked = [{"role": "user", "content": "item 7 is b"}]
    assert model.conversation is not None
    assert model.prompt(asked).ids == tuple(model.template.prompt(model.conversation.messages(asked)))
    request = GenerationRequest("asked", model.prompt(asked), Decoding(max_tokens=3))
    assert engine.generate([request])[0].completion_tokens >= 1
    # Measured by which label is likeliest, it answers with one; who reasons, by what it says.
    with Model(engine, "asked") as served:
        said = {served.ask(f"item {i} is b", max_tokens=9) for i in range(3)}
    assert method == "chain_of_thought" or said <= {"a", "b"}
    for kind in ("peft", "merged"):
        with pytest.raises(MethodMisfit, match="no weights to export"):
            export("asked", tmp_path / "out", kind)


def test_the_same_seed_gives_the_same_settings(rung_home, labelled, tmp_path):
    plan = {**FAST, "data": str(labelled), "method": "few_shot", "shots": [2], "pick": "nearest"}
    tune(Plan.of("one", plan))
    tune(Plan.of("two", plan))
    one, two = (folders.model_folder(n) / "settings.json" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_what_a_method_cannot_do_is_said_in_one_line(rung_home, labelled, tmp_path):
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"text": f"a tale of {i}"}) + "\n" for i in range(30)))
    for method in ("zero_shot", "few_shot", "chain_of_thought"):
        with pytest.raises(MethodMisfit, match="--user and --assistant"):
            tune(Plan.of("asked", {**FAST, "data": str(plain), "method": method}))
    with pytest.raises(MethodMisfit, match="--documents"):
        tune(Plan.of("asked", {**FAST, "data": str(labelled), "method": "rag"}))
    with pytest.raises(ConfigError, match="--shots"):
        Plan.of("asked", {**FAST, "data": str(labelled), "method": "few_shot", "shots": [0]})


@pytest.mark.slow
@pytest.mark.wheel
def test_sarcasm_on_a_real_base(rung_home):
    """Examples are no worse than the best of the prompts, and the figures hold together."""
    data = "wheel:evals/evals/registry/data/sarcasm/samples.jsonl"
    plan = {"base": "smollm2-135m", "data": data, "limit": 300, "dtype": "float32", "choose_rows": 30}
    few = tune(Plan.of("few", {**plan, "method": "few_shot", "pick": "nearest", "shots": [2]}))
    zero = tune(Plan.of("zero", {**plan, "method": "zero_shot"}))
    shown = few.metrics["choice_accuracy of 2 nearest"]
    assert shown["n"] == zero.metrics["choice_accuracy of as it is"]["n"] >= 20
    assert 0 <= shown["low"] < shown["value"] < shown["high"] <= 1
    assert zero.metrics[f"choice_accuracy of {zero.metrics['choice']}"]["value"] <= shown["value"] + 0.1
