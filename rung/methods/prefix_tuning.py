"""Prefix tuning: keys and values in front of every layer's own (Li and Liang, arXiv 2101.00190).

Departs from the paper: no reparametrisation by an MLP. `--init text` starts from the keys and values
that the base itself computes for real text, which trains stably without one.

    rung tune NAME --method prefix_tuning --virtual-tokens 20 --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rung.errors import MethodMisfit
from rung.methods import base, prompt_tuning
from rung.methods.workload import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank


@dataclass
class Knobs(prompt_tuning.Knobs):
    """Those of prompt tuning: a number of positions, and where they start."""

    group: ClassVar[str] = "prefix_tuning"


class Method(base.Method):
    summary = "keys and values in front of every layer's own"
    paper = "arXiv 2101.00190"
    peft_type = "PREFIX_TUNING"
    Config = Knobs
    defaults = {"lr": 3e-2, "epochs": 5.0}
    search = {"lr": (0.03, 0.015, 0.06)}
    formed = prompt_tuning.Method.formed

    def positions(self, config: Knobs) -> int:
        return config.virtual_tokens

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        try:
            shape_of(bank, 0)
        except MethodMisfit as fault:
            return str(fault)
        return super().misfit(bank, config)

    def size(self, bank: Bank, config: Knobs, shape: Shape) -> int:
        layers, both, count, heads, width = shape_of(bank, config.virtual_tokens)
        return layers * both * count * heads * width

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        import torch

        from rung.forward.adapter import Adapter

        count = config.virtual_tokens
        shape = shape_of(bank, count)
        if config.init == "random":
            kv = torch.randn(shape, generator=start.generator) * 0.02
        else:
            if config.init == "vocab":
                vocabulary = bank.vocabulary
                ids = torch.randint(vocabulary, (count,), generator=start.generator).tolist()
            else:
                ids = prompt_tuning.text_ids(config, start, count)
            kv = keys_values_of(bank, ids)
        return Adapter(keys_values=kv).to(bank.device)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        kv = adapter.keys_values
        assert kv is not None
        count, kv_heads, head_dim = kv.shape[2:]
        settings = {
            "num_virtual_tokens": count,
            "token_dim": kv_heads * head_dim,
            "num_transformer_submodules": 1,
            "num_attention_heads": kv_heads,
            "num_layers": kv.shape[0],
            "encoder_hidden_size": kv_heads * head_dim,
            "prefix_projection": False,
        }
        return settings, {"prompt_embeddings": kv.permute(2, 0, 1, 3, 4).reshape(count, -1)}


def shape_of(bank: Bank, count: int) -> tuple[int, int, int, int, int]:
    """(layers, 2, count, kv_heads, head_dim), as the base's own cache keeps them.

    Raises:
        MethodMisfit: where its layers keep something else, or not all the same.
    """
    from rung.forward.cache_shapes import attended, cached

    try:
        every = cached(bank)
        if bank.carries_trie and attended(bank) != every:
            raise NotImplementedError("its layers attend with others than they keep")
    except NotImplementedError as fault:
        raise MethodMisfit(
            f"prefix_tuning needs keys and values in front of every layer: {fault}"
        ) from None
    heads, width, values = every[0]
    if len(set(every)) > 1 or width != values:
        raise MethodMisfit(
            "prefix_tuning needs keys and values of one shape in all layers, and this base's differ"
        )
    return len(every), 2, count, heads, width


def keys_values_of(bank: Bank, ids: list[int]) -> Tensor:
    """What the bare base computes for a text: (layers, 2, len(ids), kv_heads, head_dim), float32."""
    import torch

    from rung.forward.trie import Sequence

    with torch.no_grad():
        if bank.carries_trie:
            kept = {}
            trie = bank.trie([Sequence(tuple(ids))])
            bank.forward(trie, lambda layer, k, v: kept.update({layer: torch.stack([k, v])}))
            return torch.stack([kept[i] for i in sorted(kept)]).float().contiguous()
        bank.slots = None
        out = bank.base_model(input_ids=torch.tensor([ids], device=bank.device), use_cache=True)
        pairs = [torch.stack([c.keys[0], c.values[0]]) for c in out.past_key_values.layers]
        return torch.stack(pairs).transpose(2, 3).float().contiguous()
