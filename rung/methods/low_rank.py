"""Low-rank weights: what they begin as, which settings clash, and PEFT's layout of them."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from rung.errors import MethodMisfit
from rung.methods import layers, lora_start
from rung.methods.lora_start import FORMED

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.dora import DoraOp
    from rung.forward.dropout import Dropout
    from rung.forward.lora import LoraOp
    from rung.forward.op import LinearOp
    from rung.methods import base


def clash(bank: Bank, config: Any) -> str | None:
    """Why settings do not go with each other or with a base, or None.

    Raises:
        MethodMisfit: for targets that name no projection.
    """
    from rung.data import added_tokens
    from rung.forward import token_rows

    if config.dora and (config.lora_init in FORMED or config.activated):
        other = "activated" if config.activated else "lora_init"
        return f"PEFT has no DoRA with --{other.replace('_', '-')}: leave one of the two out"
    if config.activated and config.lora_init in FORMED:
        return (
            f"--lora-init {config.lora_init} takes a part out of the base, which with --activated "
            "stays as it is in front of the call: leave one of the two out"
        )
    if config.add_tokens:
        if why := added_tokens.misspelt(config.add_tokens):
            return f"--add-tokens {why}"
        if config.activated:
            return (
                "--activated leaves the base as it is in front of the call, where added tokens have no "
                "rows: leave --activated or --add-tokens out"
            )
        if why := token_rows.misfit(bank):
            return why
    if config.lora_init == "olora" and any(
        layers.transposed(m) for m, _, _ in layers.chosen(bank, config.targets).values()
    ):
        return "PEFT has no OLoRA for this base's transposed projections: use --lora-init pissa"
    return None


def peft_files(adapter: Adapter, bank: Bank, config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors in PEFT's layout."""
    from rung.forward.dora import DoraOp

    ops: Any = {name: op.kept() for name, op in adapter.linear.items()}
    modules = layers.projections(bank)
    root = math.sqrt if config.rslora else float
    ranks = {name: len(op.a) for name, op in ops.items()}  # a parent's may be others
    alphas = {name: op.scale * root(ranks[name]) for name, op in ops.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if not math.isclose(a, alpha)},
        "use_rslora": config.rslora,
        "use_dora": any(isinstance(op, DoraOp) for op in ops.values()),
        "target_modules": sorted(ops),
        "fan_in_fan_out": any(layers.transposed(modules[n][0]) for n in ops),
        "lora_dropout": config.dropout,
        "bias": "none",
    }
    if adapter.tokens is not None:
        ids = list(adapter.tokens.ids)
        settings["trainable_token_indices"] = {module: ids for module, _ in _tables(adapter, bank)}
    if adapter.activation:
        settings["alora_invocation_tokens"] = list(adapter.activation)
    tensors = {}
    for name, op in ops.items():
        for part, value in op.parameters().items():
            part = "lora_magnitude_vector" if part == "magnitude" else f"{part}.weight"
            tensors[f"{layers.PEFT_PREFIX}{name}.{part}"] = value
    for module, rows in _tables(adapter, bank):
        tensors[f"{layers.PEFT_PREFIX}{module}.token_adapter.trainable_tokens_delta"] = rows
    return settings, tensors


def _tables(adapter: Adapter, bank: Bank) -> list[tuple[str, Tensor]]:
    """The modules that an adapter has rows of tokens for, the output layer where it is not tied, each
    with its rows (N, d)."""
    if (rows := adapter.tokens) is None:
        return []
    model = bank.model
    found = [(model.get_input_embeddings(), rows.embeddings)]
    found += [] if rows.tied else [(model.get_output_embeddings(), rows.output)]
    names = {module: name for name, module in model.named_modules()}
    return [(names[module], tensor) for module, tensor in found]


def with_tokens(adapter: Adapter, bank: Bank, start: base.Start) -> Adapter:
    """An adapter with rows for the tokens of a start beside those that it has.

    Raises:
        MethodMisfit: where it has rows of tokens that the tokenizer does not know, or can have none.
    """
    from rung.forward.token_rows import TokenRows

    before = adapter.tokens
    lost = [i for i in (before.ids if before else ()) if i >= bank.vocabulary and i not in start.tokens]
    if lost:
        raise MethodMisfit(
            f"the parent has a row for the token {lost[0]}, which no tokenizer of it names: use a "
            "model that was made with --add-tokens"
        )
    ids = sorted({*start.tokens, *(before.ids if before else ())})
    if ids and adapter.activation:
        raise MethodMisfit(
            "the parent is an activated adapter, which leaves the base as it is in front of its call, "
            "where added tokens have no rows: leave --add-tokens out"
        )
    if ids and (before is None or tuple(ids) != before.ids):
        adapter.tokens = TokenRows.fresh(bank, ids, before)
    return adapter


def fresh(
    config: Any, start: base.Start, name: str, projection: tuple[Any, int, int], dropout: Any
) -> LinearOp:
    """What training begins from at one projection."""
    import torch

    from rung.forward.dora import DoraOp
    from rung.forward.lora import LoraOp, StartedLoraOp

    module, d_in, d_out = projection
    place = (dropout, name) if dropout else None
    if config.lora_init in FORMED:
        if config.rank > min(d_in, d_out):
            raise MethodMisfit(
                f"--rank {config.rank} is more than {name} has directions ({min(d_in, d_out)}) for "
                f"--lora-init {config.lora_init}: take fewer"
            )
        a, b = lora_start.formed(config.lora_init, module, config.rank, config.scale)
        return StartedLoraOp(a.clone(), b.clone(), config.scale, (a, b), place)
    bound = 1 / math.sqrt(d_in)  # what kaiming_uniform with a = sqrt(5) comes to
    a = torch.empty(config.rank, d_in).uniform_(-bound, bound, generator=start.generator)
    b = torch.zeros(d_out, config.rank)
    made: LoraOp | DoraOp = LoraOp(a, b, config.scale)
    if config.dora:
        made = DoraOp.fresh(a, b, config.scale, module, layers.transposed(module))
    return dropping(made, place) if place else made


def dropping(op: LoraOp | DoraOp, place: tuple[Dropout, str]) -> LinearOp:
    """A low-rank op that drops a part of its input in training, at a place of this name."""
    from rung.forward.dora import DoraOp
    from rung.forward.lora import StartedLoraOp

    if isinstance(op, DoraOp):
        op.dropout = place
        return op
    return StartedLoraOp(op.a, op.b, op.scale, None, place)
