"""What Rung writes in PEFT's layout, read by PEFT in a process that has never heard of Rung."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from rung import methods
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.methods import artefact
from rung.methods.base import Start
from tests.methods.test_peft import BASE
from tests.methods.test_peft_kinds import apart
from tests.models import tiny_model

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma3", "mistral", "gpt2", "opt")
IDS = [5, 9, 11, 7, 8, 40, 3, 22, 61, 7, 8, 12]
CALL = (7, 8)
WRITTEN = [
    ("prompt_tuning", {"virtual_tokens": 3}), ("prefix_tuning", {"virtual_tokens": 3}), ("ia3", {}),
    ("lora", {"rank": 3}), ("lora", {"rank": 3, "dora": True}), ("lora", {"rank": 3, "rslora": True}),
    ("lora", {"rank": 3, "lora_init": "pissa"}), ("lora", {"rank": 3, "lora_init": "olora"}),
    ("lora", {"rank": 3, "activated": "x", "dropout": 0.1, "targets": ["attention"]}),
]  # fmt: skip
ELSEWHERE = """
import json, sys, warnings
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
warnings.simplefilter("ignore")
ids, found = torch.tensor([json.loads(sys.argv[1])]), {}
for line in sys.stdin:
    base, folder = line.split()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    found[folder] = out[0, -ids.shape[1]:]
torch.save(found, sys.argv[2])
assert not [name for name in sys.modules if name.partition(".")[0] == "rung"]
"""


def write(bank, folder, method, settings):
    """A method's adapter in PEFT's layout -> its logits here; None where the base has no such."""
    chosen = methods.get(method)
    config = chosen.Config(**settings)
    if chosen.refusal(bank, config) is not None:
        return None
    generator = torch.Generator().manual_seed(0)
    start = Start(generator, [(5, 6, 7, 8)], lambda text: list(CALL))
    adapter = chosen.build(bank, config, start)
    for tensor in adapter.parameters().values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    folder.mkdir()
    artefact.write_adapter(folder, chosen, *chosen.to_files(adapter, bank, config), BASE)
    slot = bank.add(adapter)
    try:
        trie = bank.trie([Sequence(IDS, slot=slot)])
        with torch.no_grad():
            return bank.logits(bank.forward(trie)[torch.from_numpy(trie.rows[0])], [slot] * len(IDS))
    finally:
        bank.remove(slot)


@pytest.mark.slow
def test_exports_of_every_method_on_eight_architectures(tmp_path):
    wanted, lines = {}, []
    for family in FAMILIES:
        base = tmp_path / family
        tiny_model(family).save_pretrained(base)
        bank = Bank(tiny_model(family))
        for i, (method, settings) in enumerate(WRITTEN):
            folder = tmp_path / f"{family}-{i}-{method}"
            logits = write(bank, folder, method, settings)
            if logits is not None:
                wanted[str(folder)] = logits
                lines.append(f"{base} {folder}")
    assert len(wanted) == len(FAMILIES) * len(WRITTEN) - 1  # PEFT has no OLoRA for gpt2
    command = [sys.executable, "-c", ELSEWHERE, json.dumps(IDS), str(tmp_path / "found")]
    place = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, input="\n".join(lines), text=True, check=True, cwd=tmp_path, env=place)
    found = torch.load(tmp_path / "found", weights_only=True)
    assert found.keys() == wanted.keys()
    for folder, logits in wanted.items():
        assert apart(logits, found[folder]) < 1e-4, folder


def test_every_method_that_peft_knows_is_written_here():
    known = {n for n in methods.names() if methods.get(n).peft_type is not None}
    assert known == {method for method, _ in WRITTEN}
