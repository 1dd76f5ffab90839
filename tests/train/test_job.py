"""Whole tunings from settings to models, on a base made from scratch."""

from __future__ import annotations

import json

import pytest

from rung.artefacts import cards, folders
from rung.errors import (
    ArtefactError,
    ConfigError,
    DataError,
    Interrupted,
    MethodMisfit,
    OutOfTime,
    StoreError,
)
from rung.exports.export import export
from rung.methods import artefact
from rung.store import Store
from rung.train import loop
from rung.train.job import resume, tune
from rung.train.observers import Observer
from rung.train.plan import Plan
from tests.train.conftest import SCRATCH

FAST = {"base": SCRATCH, "epochs": 1, "dtype": "float32", "batch_size": 16, "max_length": 200}


def plan(name, quotes, **settings):
    return Plan.of(name, {**FAST, "data": str(quotes), **settings})


@pytest.mark.parametrize(
    "method", ["prompt_tuning", "prefix_tuning", "lora", "last_layers", "full", "ia3"]
)
def test_every_method_ends_as_a_model(rung_home, quotes, method):
    settings = {"layers": 1} if method == "last_layers" else {}
    outcome = tune(plan("coach", quotes, method=method, **settings))
    record = Store.open().models.get("coach")
    assert record.method == method and record.licence_class in ("permissive", "unknown")
    assert outcome.metrics["test_rows"] > 0 and outcome.cost["tokens"] > 0
    folder = folders.model_folder("coach")
    folders.verify(folder)
    about = artefact.about(folder)
    assert about["settings"]["method"] == method and about["data"]["digest"]
    needed = {"rung.json", "README.md", "manifest.json", "generation_config.json", "tokenizer.json"}
    assert needed <= {p.name for p in folder.iterdir()}


def test_a_run_goes_on_where_it_stopped(rung_home, quotes, monkeypatch):
    import signal

    class Stops(Observer):
        def step(self, event):
            if event.step == 2:
                signal.raise_signal(signal.SIGINT)  # what Ctrl-C sends

    settings = {"method": "lora", "epochs": 3, "data": str(quotes)}
    with pytest.raises(Interrupted) as stopped:
        tune(plan("one", quotes, **settings), Stops())
    run = stopped.value.args[0]
    store = Store.open()
    assert store.runs.get(run).status == "interrupted"
    resume(run)
    assert store.runs.get(run).status == "succeeded"
    tune(plan("two", quotes, **settings))
    first, second = (folders.model_folder(n) / "adapter_model.safetensors" for n in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ConfigError, match="has finished"):
        resume(run)


def test_a_run_whose_time_was_over_goes_on_to_its_end(rung_home, quotes, monkeypatch):
    """A climb limits its trainings, and calls those that reach it failed: who resumes one has time."""

    def late(trainer):
        raise OutOfTime("its time was over before it had been measured")

    settings = {"method": "lora", "epochs": 2}
    with monkeypatch.context() as patch, pytest.raises(OutOfTime):
        patch.setattr(loop.Trainer, "_run", late)
        tune(plan("late", quotes, **settings, seconds=1e-3))
    store = Store.open()
    (run,) = store.runs.list(status="failed")
    resume(run.id)
    tune(plan("whole", quotes, **settings))
    late, whole = (folders.model_folder(n) / "adapter_model.safetensors" for n in ("late", "whole"))
    assert late.read_bytes() == whole.read_bytes()


def test_a_run_that_failed_goes_on_within_its_time(rung_home, quotes, monkeypatch):
    def full(*_):
        raise StoreError("the disk is full")

    settings = {"method": "lora", "epochs": 2, "seconds": 600}
    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(loop.Trainer, "_run", full)
        tune(plan("failed", quotes, **settings))
    (run,) = Store.open().runs.list(status="failed")
    assert resume(run.id).plan.train.seconds == 600


def test_a_run_whose_data_changed_is_not_resumed(rung_home, quotes):
    class Stops(Observer):
        def step(self, event):
            import signal

            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as stopped:
        tune(plan("one", quotes), Stops())
    quotes.write_text(quotes.read_text() + '{"prompt": "new", "completion": "row"}\n')
    with pytest.raises(DataError, match="has changed"):
        resume(stopped.value.args[0])


def test_a_child_goes_on_from_its_parent(rung_home, quotes):
    tune(plan("parent", quotes, method="lora"))
    tune(plan("child", quotes, method="lora", parent="parent"))
    tree = Store.open().lineage("child")
    assert "parent" in [node.name for node in tree.walk()]
    with pytest.raises(ConfigError, match="--method lora"):
        tune(plan("other", quotes, method="ia3", parent="parent"))


def test_what_a_parent_was_formed_by_stays_and_is_kept(rung_home, quotes):
    tune(plan("parent", quotes, method="lora", rank=4, targets=["attention"], adapted="upper"))
    child = tune(plan("child", quotes, method="lora", parent="parent", dropout=0.5))
    kept = json.loads((folders.model_folder("child") / "rung.json").read_text())["config"]
    assert (kept["rank"], kept["targets"], kept["adapted"]) == (4, ["attention"], "upper")
    assert kept["dropout"] == 0.5
    plain = tune(plan("plain", quotes, method="lora", parent="parent"))
    # Some of the input was dropped out: the same steps would have come to the same weights.
    ours, theirs = child.adapter.parameters(), plain.adapter.parameters()
    assert all(tensor.shape == theirs[name].shape for name, tensor in ours.items())
    assert not all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    for wrong in ({"rank": 8}, {"dora": True}, {"targets": ["all-linear"]}):
        told = f"--{next(iter(wrong))} does not go with --parent parent.*leave it out"
        with pytest.raises(ConfigError, match=told):
            plan("other", quotes, method="lora", parent="parent", **wrong)
    assert plan("same", quotes, method="lora", parent="parent", rank=4).config.rank == 4
    tune(plan("soft", quotes, method="prompt_tuning", virtual_tokens=3))
    assert plan("more", quotes, parent="soft").config.virtual_tokens == 3
    with pytest.raises(ConfigError, match="--virtual-tokens does not go with --parent soft"):
        plan("more", quotes, parent="soft", virtual_tokens=5)


def test_a_parent_of_another_base_of_the_same_shapes_is_refused_in_one_line(rung_home, quotes):
    tune(plan("parent", quotes, method="lora"))
    other = f"{SCRATCH},seed=7"
    with pytest.raises(ConfigError, match=r"--parent parent was made on the base .*use --base") as told:
        tune(plan("child", quotes, method="lora", parent="parent", base=other))
    assert "\n" not in str(told.value)
    spec = json.loads((folders.model_folder("parent") / "rung.json").read_text())["base"]["spec"]
    assert spec in str(told.value)
    outcome = tune(plan("child", quotes, method="lora", parent="parent", base=spec))
    assert outcome.model.parent == "parent"


def test_the_card_of_a_merged_model_names_all_parents_and_their_licences(rung_home, quotes, tmp_path):
    others = tmp_path / "others.jsonl"
    others.write_text(quotes.read_text().replace("a", "e"))
    tune(plan("first", quotes, method="lora"))
    spec = json.loads((folders.model_folder("first") / "rung.json").read_text())["base"]["spec"]
    tune(plan("second", others, method="lora", parent="first", base=spec))
    tune(plan("third", quotes, method="lora", parent="second", base=spec))
    export("third", tmp_path / "out", "merged")
    card = (tmp_path / "out" / "README.md").read_text()
    front = cards.read_card(tmp_path / "out")
    assert front["library_name"] == "transformers" and "PeftModel" not in card
    parts = card.split("## Made from")[1]
    for name in ("| model | second |", "| model | first |", "| base | ", f"| data | {quotes.stem}",
                 "| data | others"):  # fmt: skip
        assert name in parts, (name, parts)
    lineage = Store.open().lineage("third")
    for node in lineage.walk():
        assert node is lineage or node.licence_class in parts
    assert f"Class of use: **{lineage.licence_class}**" in card
    assert "\n# third\n" in card


@pytest.mark.parametrize(("method", "to"), [("lora", "peft"), ("lora", "merged"), ("full", "merged"),
                                            ("prompt_tuning", "peft"), ("ia3", "merged")])  # fmt: skip
def test_exports_answer_alike(rung_home, quotes, tmp_path, method, to):
    tune(plan("coach", quotes, method=method, lr=1e-2))
    proof = export("coach", tmp_path / "out", to)
    assert proof.difference < 1e-3 and proof.tokens == 64
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"README.md", "generation_config.json", "tokenizer.json"} <= made
    stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert stops == artefact_stops("coach")
    with pytest.raises(ConfigError, match="not empty"):
        export("coach", tmp_path / "out", to)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["full", "last_layers", "lora"])
def test_transformers_reads_a_merged_base_whole(rung_home, quotes, tmp_path, tied, method):
    """Heads that are the embedding stay so, whatever way of drawing the base names beside greedy."""
    from transformers import AutoModelForCausalLM

    from tests.engine.world import tiny_llama
    from tests.tokens import tiny_tokenizer

    base = tiny_llama(tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    own = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(own))
    settings = {"base": str(tmp_path / "base"), "steps": 2, "lr": 1e-2, "max_length": 100}
    tune(plan("coach", quotes, method=method, **settings))
    assert export("coach", tmp_path / "out", "merged").difference < 1e-3
    read, told = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    same = read.get_output_embeddings().weight is read.get_input_embeddings().weight
    assert same is tied is read.config.tie_word_embeddings
    with pytest.raises(MethodMisfit, match="'lm_head' names no projection"):
        tune(plan("head", quotes, method="lora", targets=["lm_head"], **settings))


def artefact_stops(name):
    folder = folders.model_folder(name)
    return json.loads((folder / "generation_config.json").read_text())["eos_token_id"]


def test_what_cannot_be_exported_says_so(rung_home, quotes, tmp_path):
    tune(plan("coach", quotes, method="prompt_tuning"))
    with pytest.raises(MethodMisfit, match="--to peft"):
        export("coach", tmp_path / "out", "merged")
    with pytest.raises(ConfigError, match="did you mean 'peft'"):
        export("coach", tmp_path / "out", "pfet")
    assert not (tmp_path / "out").exists()
    damaged = folders.model_folder("coach") / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4])
    with pytest.raises(ArtefactError, match="adapter_model"):
        export("coach", tmp_path / "out", "peft")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 1}, "unknown setting 'learning_rate'"),
        ({"lr": -1, "epochs": "many"}, "--lr is -1.*--epochs is 'many'"),
        ({"method": "lroa"}, "did you mean 'lora'"),
        ({"method": "lora", "virtual_tokens": 4}, "belongs to prefix_tuning, prompt_tuning"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_bad_settings_are_named_at_once(quotes, settings, words):
    with pytest.raises(ConfigError, match=words):
        plan("x", quotes, **settings)


def test_settings_make_the_same_plan_again(quotes):
    first = plan("x", quotes, method="prefix_tuning", virtual_tokens=7)
    assert Plan.of("x", first.settings()) == first


def test_data_that_would_ruin_training_is_refused(rung_home, tmp_path):
    """FAULTS 47 and 49."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": "a", "completion": ""}\n' * 4)
    with pytest.raises(DataError):
        tune(plan("x", empty))
    leak, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    lines = [f'{{"prompt": "q{i}", "completion": "a{i}"}}\n' for i in range(12)]
    leak.write_text("".join(lines))
    test.write_text("".join(lines))
    with pytest.raises(DataError, match="train.jsonl:"):
        tune(plan("x", leak, test_data=str(test)))
    tune(plan("x", leak, test_data=str(test), allow_leakage=True))


def test_a_method_that_does_not_fit_is_named(rung_home, quotes):
    with pytest.raises(MethodMisfit, match="--layers 5 is more than the base's 2"):
        tune(plan("x", quotes, method="last_layers", layers=5))


def test_bfloat16_trains(rung_home, quotes):
    outcome = tune(plan("x", quotes, method="lora", dtype="bfloat16", lr=1e-3))
    assert outcome.metrics["test_loss"] < outcome.metrics["test_loss_of_base"]
