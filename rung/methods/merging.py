"""Building an adapter into its base: the base's parameters that change, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.errors import MethodMisfit
from rung.methods import layers

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.token_rows import TokenRows


def merged(adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
    """The parameters that change, in the base's precision. Tied ones stand under one of their names;
    where they stand under several, the adapter tells them apart and they are tied no more. Those of
    added tokens have more rows than the base's.

    Raises:
        MethodMisfit: where the adapter cannot be expressed as weights of the base.
    """
    if adapter.embeddings is not None or adapter.keys_values is not None:
        raise MethodMisfit(
            "what stands in front of the input is no weight, so it cannot be merged: use --to peft"
        )
    if not adapter.linear and not adapter.weights and adapter.tokens is None:
        raise MethodMisfit("this adapter changes no weights, so it cannot be merged")
    if adapter.activation:
        raise MethodMisfit(
            "this adapter acts only behind the text that calls it and cannot be merged: use --to peft"
        )
    own = dict(bank.model.named_parameters(remove_duplicate=False))
    changed: dict[str, Tensor] = {n: t.detach() for n, t in adapter.weights.items()}
    for name, op in adapter.linear.items():
        module = bank.modules[name]
        turned = layers.transposed(module)
        weight, bias = (changed.get(f"{name}.{p}", own.get(f"{name}.{p}")) for p in ("weight", "bias"))
        assert weight is not None
        plain = weight.detach().float()
        try:
            plain, with_bias = op.merged(
                plain.t() if turned else plain, None if bias is None else bias.detach().float()
            )
        except NotImplementedError as fault:
            raise MethodMisfit(f"this adapter cannot be merged: {fault} ({name})") from None
        changed[f"{name}.weight"] = plain.t().contiguous() if turned else plain
        if with_bias is not None and bias is not None:
            changed[f"{name}.bias"] = with_bias
    if adapter.tokens is not None:
        changed |= _with_rows(adapter.tokens, bank, changed)
    return {n: t.to(own[n].dtype) for n, t in changed.items()}


def _with_rows(rows: TokenRows, bank: Bank, changed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tables with rows of tokens in them, by name; a tied one once."""
    import torch

    model = bank.model
    tables = [(model.get_input_embeddings().weight, rows.embeddings)]
    tables += [] if rows.tied else [(model.get_output_embeddings().weight, rows.output)]
    found = {}
    for weight, own in tables:
        name = next((n for n in bank.names(weight) if n in changed), bank.names(weight)[0])
        table = changed.get(name, weight).detach().float()
        table = torch.cat([table, table.new_zeros(max(0, rows.end - len(table)), table.shape[1])])
        table[list(rows.ids)] = own.detach().to(table)
        found[name] = table
    return found


def put_into(model: Any, changed: dict[str, Tensor]) -> None:
    """Write what `merged` gave into a model of the same base, which gets as many rows as it needs."""
    import torch

    table = model.get_input_embeddings().weight
    named = dict(model.named_parameters(remove_duplicate=False))
    rows = [len(t) for n, t in changed.items() if named[n] is table]
    if rows and rows[0] > len(table):
        model.resize_token_embeddings(rows[0], mean_resizing=False)
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in changed.items():
        twins = [n for n, p in named.items() if p is named[name] and n != name]
        if not any(n in changed for n in twins):
            with torch.no_grad():
                named[name].copy_(tensor)
            continue
        module, _, leaf = name.rpartition(".")
        own = torch.nn.Parameter(tensor.clone(), requires_grad=False)
        model.get_submodule(module)._parameters[leaf] = own
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
