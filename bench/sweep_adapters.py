"""Sweep of adapters: every kind that PEFT writes, read by Rung and held against PEFT's logits."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.sweep_pages import DOCS, adapters_page, class_of, told


def adapter_kind(kind: str, world: World) -> tuple[str, str]:
    """How one of PEFT's kinds is read, and what came of it, alone and in one batch with others."""
    from rung.errors import ArtefactError
    from rung.methods import artefact
    from tests.methods import test_peft_kinds as kinds

    if kinds.MADE.get(kind) is None:
        return "no", "not made here: it needs more than a configuration"
    config = next(c for t, c in kinds.CONFIGS.items() if t.value == kind)
    with tempfile.TemporaryDirectory() as place:
        settings = {**kinds.MADE[kind], **world.settings.get(kind, {})}
        config = config(**kinds.TASK, **settings)
        wanted = kinds.made(config, Path(place), model=world.fresh, scale=world.scale)
        try:
            adapter, _ = artefact.load(Path(place), world.bank)
        except ArtefactError as fault:
            return "no", str(fault).replace(place, "the adapter")
        slot = world.bank.add(adapter)
        try:
            alone = kinds.logits(world.bank, [slot])[0]
            beside = kinds.logits(world.bank, [*world.others, slot])[-1]
        finally:
            world.bank.remove(slot)
    how = "by Rung" if kind in kinds.NATIVE else "through PEFT, as weights of its own"
    return how, told(max(kinds.apart(alone, wanted), kinds.apart(beside, wanted)))


class World:
    """A base with nine adapters of Rung's own in it, beside which each kind is asked.

    Args:
        real: SmolLM2-135M in place of a tiny random model.
    """

    def __init__(self, real: bool):
        from rung.forward.bank import Bank
        from tests.models import tiny_adapter, tiny_model

        self.fresh: Callable[[str], Any] = _smollm2 if real else tiny_model
        self.scale = 0.02 if real else 0.2  # real weights are smaller than a tiny model's
        self.settings: dict[str, Any] = REAL_SETTINGS if real else {}
        self.bank = Bank(self.fresh("llama"))
        kinds = ("lora", "ia3", "prompt_tuning", "prefix_tuning", "last_layers") * 2
        self.others = [self.bank.add(tiny_adapter(self.bank, m, i)) for i, m in enumerate(kinds[:9])]


# Sizes that must divide a width: SmolLM2's is 576, of its feed-forward layers 1536.
REAL_SETTINGS: dict[str, Any] = {
    "VBLORA": {"vector_length": 64, "num_vectors": 8}, "LN_TUNING": {}, "OFT": {"oft_block_size": 32},
    "BOFT": {"boft_block_size": 9}, "C3A": {"block_size": 64}, "ROAD": {"group_size": 64},
}  # fmt: skip


def _smollm2(family: str) -> Any:
    from rung import bases

    return bases.load(bases.resolve("smollm2-135m")).model


def sweep(only: set[str], real: bool) -> int:
    from tests.methods import test_peft_kinds as kinds

    world, found = World(real), {}
    for kind in sorted(k for k in kinds.MADE if not only or k in only):
        found[kind] = adapter_kind(kind, world)
        print(kind, *found[kind], flush=True)
    counts = Counter(class_of(c) if how != "no" else "refused" for how, c in found.values())
    print(f"{len(found)} kinds: {dict(counts)}")
    if not only and not world.settings:
        (DOCS / "adapters.md").write_text(adapters_page(found), encoding="utf-8")
    return counts["differ"] + counts["traceback"]
