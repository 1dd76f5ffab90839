"""Artefacts against PEFT: what Rung writes gives the same logits there, what PEFT writes loads here."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from rung import methods
from rung.data import Template
from rung.errors import ArtefactError
from rung.forward.bank import Bank
from rung.forward.loss import cross_entropy
from rung.forward.trie import Sequence
from rung.methods import artefact, merging
from rung.types import BaseInfo
from tests.models import VOCABULARY, tiny_adapter, tiny_model

IDS = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
BASE = BaseInfo("tiny", "tiny", "", "0")
TRAINED = [n for n in methods.names() if methods.get(n).trained]
CASES = [
    *[(m, "llama", {}) for m in ("prompt_tuning", "prefix_tuning", "lora", "ia3")],
    ("lora", "llama", {"rslora": True, "targets": ["q_proj", "mlp"], "rank": 4}),
    ("lora", "llama", {"adapted": "upper"}),
    *[(m, "gpt2", {}) for m in ("prompt_tuning", "prefix_tuning", "lora", "ia3")],
    ("lora", "gemma3", {}), ("prefix_tuning", "qwen3", {}), ("lora", "opt", {}),
]  # fmt: skip


def written(bank, method, folder, **settings):
    """The adapter, its folder in PEFT's layout."""
    chosen = methods.get(method)
    small = {"virtual_tokens": 3} if "virtual_tokens" in chosen.Config.__dataclass_fields__ else {}
    config = chosen.Config(**{**small, **settings})
    adapter = tiny_adapter(bank, method, **settings)
    folder.mkdir(exist_ok=True)
    artefact.write_adapter(folder, chosen, *chosen.to_files(adapter, bank, config), BASE)
    return adapter


def logits(bank, slot):
    trie = bank.trie([Sequence(tuple(row), slot=slot) for row in IDS.tolist()])
    with torch.no_grad():
        hidden = bank.forward(trie)
        return torch.stack([bank.logits(hidden[r], [slot] * len(r)) for r in trie.rows])


@pytest.mark.parametrize(("method", "family", "settings"), CASES)
def test_peft_gives_the_same_logits(method, family, settings, tmp_path):
    bank = Bank(tiny_model(family))
    adapter = written(bank, method, tmp_path, **settings)
    theirs = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path)
    with torch.no_grad():
        reference = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    reference = reference[:, -IDS.shape[1] :]  # PEFT's prompt tuning returns its virtual tokens too
    assert torch.allclose(logits(bank, bank.add(adapter)), reference, atol=1e-4)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "lora", "ia3"])
def test_gradients_equal_pefts(method, tmp_path):
    bank = Bank(tiny_model())
    adapter = written(bank, method, tmp_path).trainable()
    slot = bank.add(adapter)
    trie = bank.trie([Sequence(tuple(r), (False,) + (True,) * 11, slot) for r in IDS.tolist()])
    loss, _ = cross_entropy(bank, trie, bank.forward(trie), slot)
    parameters = adapter.parameters()
    grads = torch.autograd.grad(loss / float(trie.weight.sum()), list(parameters.values()))
    theirs = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(any(word in name for word in ("lora_", "ia3_l", "prompt_encoder")))
    labels = IDS.clone()
    labels[:, 0] = -100
    out = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=labels)
    out.loss.backward()
    mean = float(loss.detach()) / float(trie.weight.sum())
    assert mean == pytest.approx(float(out.loss.detach()), abs=1e-5)
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    reference = [p.grad for p in theirs.parameters() if p.grad is not None]
    assert float(norm) == pytest.approx(
        float(torch.sqrt(sum((g**2).sum() for g in reference))), rel=1e-4
    )


TASK = {"task_type": "CAUSAL_LM"}
THEIRS = {
    "lora": peft.LoraConfig(
        **TASK, r=5, target_modules=["q_proj", "down_proj"], alpha_pattern={"q_proj": 3}
    ),
    "prompt": peft.PromptTuningConfig(**TASK, num_virtual_tokens=4),
    "prefix": peft.PrefixTuningConfig(**TASK, num_virtual_tokens=4),
    "ia3": peft.IA3Config(
        **TASK, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
}


@pytest.mark.parametrize("config", THEIRS.values(), ids=THEIRS.keys())
def test_what_peft_writes_loads(config, tmp_path):
    torch.manual_seed(3)
    theirs = peft.get_peft_model(tiny_model(), config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        reference = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -12:]
    theirs.save_pretrained(tmp_path)
    bank = Bank(tiny_model())
    adapter, about = artefact.load(tmp_path, bank)
    assert about["method"] in methods.names()
    assert torch.allclose(logits(bank, bank.add(adapter)), reference, atol=1e-4)


@pytest.mark.parametrize("method", [n for n in TRAINED if not methods.get(n).own_base])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folder_gives_the_same_logits_back(method, family, tmp_path, template):
    bank = Bank(tiny_model(family))
    chosen = methods.get(method)
    adapter = tiny_adapter(bank, method)
    small = {"virtual_tokens": 3} if adapter.size == 96 else {}
    artefact.save(tmp_path, adapter, bank, chosen, chosen.Config(**small), BASE, template, {})
    read, about = artefact.load(tmp_path, bank)
    assert about["method"] == method and about["base"]["digest"] == "0"
    assert torch.equal(logits(bank, bank.add(adapter)), logits(bank, bank.add(read)))
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]


@pytest.mark.parametrize("method", ["lora", "ia3", "last_layers", "full"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_merged_weights_give_the_adapters_logits(method, family):
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, method)
    reference = logits(bank, bank.add(adapter))
    merged = tiny_model(family)
    merging.put_into(merged, merging.merged(adapter, bank))
    with torch.no_grad():
        found = merged(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    assert torch.allclose(found, reference, atol=2e-4)


def damaged(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(sorted(t)[1]), "missing"),
        (lambda t: t.update({sorted(t)[0]: torch.full_like(t[sorted(t)[0]], float("nan"))}), "finite"),
        (lambda t: t.update({sorted(t)[1]: torch.zeros(3, 3)}), "shape"),
        (lambda t: t.update({"base_model.model.x.lora_A.weight": torch.zeros(3, 3)}), "another base"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(3, 3)}), "shape"),
        (lambda t: t.update({"base_model.model.x.y": torch.zeros(3, 3)}), "x.y"),
    ],
    ids=["missing", "nan", "shape", "module", "head", "extra"],
)
def test_a_damaged_adapter_names_its_fault(change, words, tmp_path):
    bank = Bank(tiny_model())
    written(bank, "lora", tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(ArtefactError, match=words):
        artefact.load(tmp_path, bank)


def test_other_faults_of_folders(tmp_path):
    bank = Bank(tiny_model())
    with pytest.raises(ArtefactError, match="no adapter"):
        artefact.load(tmp_path, bank)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    with pytest.raises(ArtefactError, match="incomplete"):
        artefact.load(tmp_path, bank)


def test_template_travels(tmp_path, template):
    template.save(tmp_path)
    from transformers import AutoTokenizer

    assert Template.of(AutoTokenizer.from_pretrained(tmp_path)).fingerprint == template.fingerprint
