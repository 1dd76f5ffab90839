"""What is asked of every server, and the adapters that they serve.

Adapters are random but not empty: LoRA of rank 16 on all projections, keys and values in front, soft
prompts. They are written in PEFT's layout, which all sides read.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from bench.examples import instructions

RANK = 16
VIRTUAL = 20  # tokens, of prefixes and soft prompts
LORA = [f"lora{i}" for i in range(8)]
MIXED = [*LORA[:3], "prefix0", "prefix1", "soft0", "soft1", "base"]
# The adapters of which there are many: what PEFT's LoraConfig gives by default.
COPIED = {"rank": 8, "targets": ["q_proj", "v_proj"]}
SHORT, LONG = 24, 160  # tokens of a prompt


def prompts(template: Any) -> list[list[int]]:
    """Questions as token ids, each once, in a fixed random order."""
    found = []
    for row in instructions(template, 2000):
        ids = list(row.ids[: row.supervised.index(True)])
        if SHORT <= len(ids) <= LONG:
            found.append(ids)
    random.Random(0).shuffle(found)
    return found


def write_adapters(bank: Any, base: Any, folder: Path) -> dict[str, str]:
    """Write every adapter -> its folder by its name."""
    made = {name: ("lora", {"rank": RANK}) for name in LORA}
    made |= {f"prefix{i}": ("prefix_tuning", {"virtual_tokens": VIRTUAL}) for i in range(2)}
    made |= {f"soft{i}": ("prompt_tuning", {"virtual_tokens": VIRTUAL}) for i in range(2)}
    return {
        name: str(_write(bank, base, folder / name, method, settings, seed))
        for seed, (name, (method, settings)) in enumerate(made.items())
    }


def _write(bank: Any, base: Any, folder: Path, name: str, settings: dict, seed: int) -> Path:
    from rung import methods
    from rung.methods import artefact

    method = methods.get(name)
    config = method.Config(**settings)
    adapter = adapter_of(bank, method, config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    artefact.write_adapter(folder, method, *method.to_files(adapter, bank, config), base)
    return folder


def adapter_of(bank: Any, method: Any, config: Any, seed: int) -> Any:
    """An adapter that changes answers, without having been trained."""
    import torch

    from rung.methods.base import Start

    generator = torch.Generator().manual_seed(seed)
    adapter = method.build(bank, config, Start(generator, [tuple(range(10, 90))]))
    with torch.no_grad():
        for tensor in adapter.parameters().values():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += noise * 0.02
    return adapter
