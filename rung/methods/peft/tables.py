"""Rows of tokens in what PEFT writes: trained ones, and those of a resized base behind its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.errors import ArtefactError
from rung.methods.peft.base import WAY_OUT, UnreadError

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.token_rows import TokenRows
    from rung.methods.peft.base import Files

ROWS = ".token_adapter.trainable_tokens_delta"
# The base's own tables, which PEFT writes along where they were resized, and a copy of what it trained.
BENEATH = (".token_adapter.base_layer.weight", ".original_module.weight")
COPY = ".modules_to_save.weight"


def read(files: Files, adapter: Adapter) -> TokenRows | None:
    """Take the rows of tokens in embeddings and output layer, added ones among them.

    What replaces whole tables is cut to the base's rows and left; rows that this cannot hold are left.

    Raises:
        ArtefactError: for rows that the base cannot have.
        UnreadError: for tables that were changed beside their rows.
    """
    import torch

    from rung.forward import token_rows

    bank, model = files.bank, files.bank.model
    if bank.reads != "text" or token_rows.misfit(bank):
        return None
    names = {module: name for name, module in model.named_modules()}
    modules = [names[model.get_input_embeddings()], names[model.get_output_embeddings()]]
    behind = [_behind(files, module) for module in modules]
    ids = _trained(files, adapter, modules)
    if behind[0] is None and behind[1] is None and not ids:
        return None
    if token_rows.tied(bank) and behind[1] is None:
        behind[1] = behind[0]
    if len({None if rows is None else len(rows) for rows in behind}) > 1:
        raise ArtefactError(
            f"the file has rows of added tokens for one of {modules[0]} and {modules[1]} alone: save "
            "the adapter with both (modules_to_save)"
        )
    added = 0 if behind[0] is None else len(behind[0])
    every = sorted({*ids, *range(bank.vocabulary, bank.vocabulary + added)})
    tables = []
    for module, rows in zip(modules, behind, strict=True):
        own = {} if rows is None else {bank.vocabulary + n: row for n, row in enumerate(rows)}
        if ids:
            trained = modules[0] if token_rows.tied(bank) else module
            own |= dict(zip(ids, files.take(f"{trained}{ROWS}", (len(ids), bank.width)), strict=True))
        tables.append(torch.stack([own[i] for i in every]))
    one = token_rows.tied(bank) and tables[0].equal(tables[1])
    made = token_rows.TokenRows(tuple(every), tables[0], tables[0] if one else tables[1])
    if why := made.check(bank):
        raise ArtefactError(f"the settings name rows that cannot be had: {why}")
    return made


def told(files: Files, module: str) -> Any:
    """The tokens that the settings name for the rows of a module; None where they name none."""
    named = files.settings.get("trainable_token_indices", files.settings.get("token_indices"))
    if isinstance(named, dict):
        return next((v for k, v in named.items() if module == k or module.endswith("." + k)), None)
    return named


def _behind(files: Files, module: str) -> Tensor | None:
    """The rows (n, d) of a table behind as many as the base has, which are taken off it; None where it
    has no more of them."""
    rows, found = files.bank.vocabulary, None
    for end in (*BENEATH, ".weight"):
        name = f"{module}{end}"
        table = files.tensors.get(name)
        if table is None or table.ndim != 2 or table.shape[1] != files.bank.width or len(table) < rows:
            continue
        if len(table) > rows:
            found = files.take(name, tuple(table.shape))[rows:]
            files.tensors[name] = files.all[name] = table[:rows]
        if end in BENEATH:
            own = files.bank.weight(module).detach().float().cpu()
            if not files.take(name, tuple(own.shape)).cpu().equal(own):
                raise UnreadError(f"{module} was changed beside its rows of tokens: {WAY_OUT}")
    copied = files.tensors.pop(f"{module}{COPY}", None)
    whole = files.tensors.get(f"{module}.weight")
    if copied is not None and (whole is None or not copied[:rows].equal(whole)):
        raise UnreadError(f"{module} has two tables that differ: {WAY_OUT}")
    return found


def _trained(files: Files, adapter: Adapter, modules: list[str]) -> list[int]:
    """The tokens whose rows are trained in all tables, in the file's order; none where other rows are
    there, or something else changes these tables."""
    from rung.forward import token_rows

    tied = token_rows.tied(files.bank)
    there = {n: t for n, t in files.tensors.items() if n.endswith(ROWS)}
    first = f"{modules[0]}{ROWS}"
    if tied and all(t.equal(there.get(first, t)) for t in there.values()):
        there = {first: there[first]} if first in there else {}  # the other is the same
    wanted = {f"{m}{ROWS}" for m in (modules[:1] if tied else modules)}
    changed = {n.rpartition(".")[0] for n in (*files.tensors, *adapter.weights)}
    ids = [told(files, module) for module in modules]
    if not there or set(there) != wanted or changed & set(modules) or not ids[0]:
        return []
    if (ids[1] not in (None, ids[0]) if tied else ids[1] != ids[0]) or len(set(ids[0])) < len(ids[0]):
        return []
    if not all(type(i) is int for i in ids[0]):
        return []
    if tied:
        files.tensors.pop(f"{modules[1]}{ROWS}", None)
    return ids[0]
