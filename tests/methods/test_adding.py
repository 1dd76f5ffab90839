"""Other people's adapters: added by a name, served from their folders, exported with PEFT's proof."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from rung.artefacts import folders
from rung.errors import ArtefactError, ConfigError, RungError
from rung.exports.export import export
from rung.forward.reward_head import RewardHead
from rung.library.adding import add
from rung.methods import artefact
from rung.methods.peft import through_peft
from rung.models import load
from rung.store import Store
from rung.store.records import InUse
from tests.models import tiny_model
from tests.tokens import tiny_tokenizer

KINDS = {
    "dora": peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], use_dora=True),
    "head": peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]
    ),
    "loha": peft.LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "activated": peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], alora_invocation_tokens=[7, 8]
    ),
    "norms": peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["norm"]),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    from transformers import AutoModelForCausalLM

    from tests.models import tiny_config

    torch.manual_seed(0)
    config = tiny_config("llama")
    config.vocab_size = len(tokenizer)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(base, tmp_path_factory):
    """As a Trainer leaves them: the adapter, and pickles beside it."""
    from transformers import AutoModelForCausalLM

    made = {}
    for name, config in KINDS.items():
        torch.manual_seed(1)
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.2 * torch.randn_like(parameter)
        made[name] = tmp_path_factory.mktemp("runs") / f"checkpoint-{name}"
        model.save_pretrained(made[name])
        (made[name] / "training_args.bin").write_bytes(b"\x80\x04.")
        (made[name] / "optimizer.pt").write_bytes(b"\x80\x04.")
    return made


def test_every_kind_is_added_proven_and_exported(rung_home, checkpoints, base, tmp_path):
    for name, folder in checkpoints.items():
        added = add(name, str(folder))
        assert added.difference is not None and added.difference < 1e-4
        kept = json.loads((rung_home / "models" / name / "adapter_config.json").read_text())
        assert kept["base_model_name_or_path"] == base.name  # no path of this disk
        assert not list((rung_home / "models" / name).glob("*.bin"))
        proof = export(name, tmp_path / f"{name}-peft", "peft")
        assert proof.difference < 1e-3 and proof.by == "PEFT"
    assert export("dora", tmp_path / "whole", "merged").difference < 1e-3
    assert export("head", tmp_path / "whole-head", "merged").difference < 1e-3


def test_a_reward_model_is_not_added_as_one_that_writes(rung_home, checkpoints, tmp_path):
    judge = shutil.copytree(checkpoints["dora"], tmp_path / "judge")
    RewardHead(weight=torch.ones(32), token=5).write(judge)
    with pytest.raises(ConfigError, match="has a reward head, which rung add does not take along"):
        add("judge", str(judge))
    assert not Store.open().models.list()


def test_folders_are_served_beside_their_base(rung_home, checkpoints, base):
    names = [str(base), *map(str, checkpoints.values())]
    loaded = load(names, short=True, max_batch=8)
    engine = loaded.engine.start()
    try:
        served = {f"checkpoint-{name}" for name in KINDS}
        assert served <= set(engine.models)
        from rung.library.knobs import DecodingKnobs
        from rung.library.model import request

        knobs = DecodingKnobs(max_tokens=6, temperature=0.0)
        asked = [request(engine, name, "a b", knobs) for name in sorted(served)]
        together = [c.ids for c in engine.generate(asked)]
        alone = [engine.submit(one).result().ids for one in asked]
        assert together == alone and len({tuple(ids) for ids in alone}) > 2
    finally:
        engine.stop()


def test_folders_of_one_name_are_told_apart_by_their_paths(rung_home, checkpoints, base, tmp_path):
    folders = [tmp_path / run / "trainer_output" / "checkpoint-3" for run in ("first", "second")]
    for folder, kind in zip(folders, ("dora", "ia3"), strict=True):
        shutil.copytree(checkpoints[kind], folder)
    own = [f"{run}/trainer_output/checkpoint-3" for run in ("first", "second")]
    found = load([str(base), *map(str, folders), str(checkpoints["loha"])], short=True).engine.models
    assert set(found) - {base.name, str(base)} == {*own, "checkpoint-loha"}


def test_what_cannot_be_added_is_said_in_one_line(rung_home, checkpoints, base, tmp_path):
    add("taken", str(checkpoints["dora"]))
    with pytest.raises(ConfigError, match="exists"):
        add("taken", str(checkpoints["dora"]))
    with pytest.raises(ArtefactError, match="adapter_config.json"):
        add("nothing", str(base))
    lost = shutil.copytree(checkpoints["ia3"], tmp_path / "lost")
    told = json.loads((lost / "adapter_config.json").read_text())
    told["base_model_name_or_path"] = "/nowhere/at/all"
    (lost / "adapter_config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="--base"):
        add("lost", str(lost))
    assert add("found", str(lost), base=str(base)).model.method == "ia3"
    pickled = shutil.copytree(checkpoints["ia3"], tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ArtefactError, match="pickle"):
        add("pickled", str(pickled), base=str(base))


def test_a_parent_is_not_replaced(rung_home, checkpoints, base):
    add("coach", str(checkpoints["ia3"]), str(base))
    store = Store.open()
    store.models.put("kid", method="lora", base=store.models.get("coach").base, parent="coach")
    folder = folders.model_folder("coach")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(InUse, match="'coach' is the parent or base of 'kid'"):
        add("coach", str(checkpoints["norms"]), str(base), replace=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_wrong_reader_is_caught_by_pefts_logits(rung_home, checkpoints, monkeypatch):
    """A reader that passes over half of the adapter must not come through."""
    own = artefact.load

    def half(folder, bank):
        adapter, about = own(folder, bank)
        adapter.linear = dict(list(adapter.linear.items())[:1])
        return adapter, about

    monkeypatch.setattr(artefact, "load", half)
    with pytest.raises(ArtefactError, match="PEFT answers otherwise"):
        add("half", str(checkpoints["dora"]))


@pytest.mark.parametrize("kind", ["dora", "activated"])
def test_an_export_that_was_damaged_is_not_kept(kind, rung_home, checkpoints, tmp_path, monkeypatch):
    add("coach", str(checkpoints[kind]))
    from rung import exports

    chosen = exports.get("peft")
    write = chosen.write

    def damaged(source, folder, dtype):
        write(source, folder, dtype)
        tensors = load_file(folder / "adapter_model.safetensors")
        first = next(k for k in tensors if "lora_B" in k)
        tensors[first] = tensors[first] * 3
        save_file(tensors, folder / "adapter_model.safetensors")

    monkeypatch.setattr(chosen, "write", damaged)
    with pytest.raises(ArtefactError, match="answers differ"):
        export("coach", tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


def test_without_peft_it_says_that_nothing_was_proven(rung_home, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(through_peft, "installed", lambda: False)
    assert add("coach", str(checkpoints["dora"])).difference is None
    assert "not installed" in export("coach", tmp_path / "out", "peft").by
    with pytest.raises(RungError, match="merge_and_unload"):
        add("loha", str(checkpoints["loha"]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_dora_is_trained_into_what_peft_reads(family, tmp_path):
    from rung import methods
    from rung.forward.bank import Bank
    from rung.types import BaseInfo
    from tests.methods.test_peft_kinds import apart, logits, reference
    from tests.models import tiny_adapter

    bank, lora = Bank(tiny_model(family)), methods.get("lora")
    config = lora.Config(rank=4, dora=True)
    fresh = tiny_adapter(bank, "lora", rank=4, dora=True)
    files = lora.to_files(fresh, bank, config)
    artefact.write_adapter(tmp_path, lora, *files, BaseInfo("tiny", "tiny", "", "0"))
    assert apart(logits(bank, [bank.add(fresh)])[0], reference(tmp_path, family)) < 1e-4
