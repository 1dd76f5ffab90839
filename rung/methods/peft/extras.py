"""What any kind of adapter may bring besides: whole modules, biases, rows of the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.token_rows import TokenRows
    from rung.methods.peft.base import Files

ROWS = ".token_adapter.trainable_tokens_delta"


def read(files: Files, adapter: Adapter) -> None:
    """Add what is left of an adapter's tensors to it.

    Raises:
        ArtefactError: naming a tensor that the base has no parameter for, or the settings do not
            announce.
    """
    from rung.forward.dora import DoraOp

    own = dict(files.bank.model.named_parameters(remove_duplicate=False))
    whole = {}
    adapter.tokens = _tokens(files, adapter)
    for name in list(files.tensors):
        if name.endswith(ROWS):
            _rows(files, adapter, name)
            continue
        parameter = name.replace(".base_layer.", ".")
        if parameter not in own:
            raise ArtefactError(
                f"the file holds {name}, which fits nothing here: was it for another base?"
            )
        whole[parameter] = files.take(name, tuple(own[parameter].shape))
    for parameter, value in whole.items():
        if _announced(files, parameter):
            put(files, adapter, parameter, value)
        elif value.equal(own[parameter].detach().float().to(value.device)):
            continue  # the base's own, saved along with what was adapted
        else:
            adapter.weights[parameter] = value  # PEFT loads it into the base itself, ties and all
    for name, op in adapter.linear.items():
        if isinstance(op, DoraOp):
            op.bias = adapter.weights.get(f"{name}.bias")


def put(files: Files, adapter: Adapter, parameter: str, value: Tensor) -> None:
    """Replace one module's parameter alone: what is tied to it keeps the base's."""
    bank = files.bank
    own = dict(bank.model.named_parameters(remove_duplicate=False))
    for name in bank.names(own[parameter]):
        if name != parameter and name not in adapter.weights:
            adapter.weights[name] = own[name].detach().clone()
    adapter.weights[parameter] = value


def _announced(files: Files, parameter: str) -> bool:
    """Whether the settings say that PEFT keeps a copy of this parameter's module."""
    module = parameter.rpartition(".")[0]
    saved = files.settings.get("modules_to_save") or ()
    inside = [".".join(module.split(".")[: i + 1]) for i in range(module.count(".") + 1)]
    return any(part == s or part.endswith("." + s) for part in inside for s in saved)


def _tokens(files: Files, adapter: Adapter) -> TokenRows | None:
    """Rows of the same tokens in embeddings and output layer, added ones among them, where nothing else
    changes these; None leaves rows to `_rows`."""
    from rung.forward import token_rows

    bank, model = files.bank, files.bank.model
    if not any(n.endswith(ROWS) for n in files.tensors) or token_rows.misfit(bank):
        return None
    names = {module: name for name, module in model.named_modules()}
    modules = [names[model.get_input_embeddings()]]
    modules += [] if token_rows.tied(bank) else [names[model.get_output_embeddings()]]
    changed = {n.rpartition(".")[0] for n in (*files.tensors, *adapter.weights)}
    told = [_told(files, m) for m in modules]
    wanted = {f"{m}{ROWS}" for m in modules}
    if not told[0] or wanted != {n for n in files.tensors if n.endswith(ROWS)} or told[0] != told[-1]:
        return None
    if changed & set(modules) or not all(type(i) is int for i in told[0]):
        return None
    tables = [files.take(f"{m}{ROWS}", (len(told[0]), bank.width)) for m in modules]
    order = sorted(range(len(told[0])), key=lambda n: told[0][n])
    sorted_ids = tuple(told[0][n] for n in order)
    tables = [table[order] for table in tables]
    made = token_rows.TokenRows(sorted_ids, tables[0], tables[-1])
    if why := made.check(bank):
        raise ArtefactError(f"the settings name rows that cannot be had: {why}")
    return made


def _told(files: Files, module: str) -> Any:
    """The tokens that the settings name for the rows of a module; None where they name none."""
    told = files.settings.get("trainable_token_indices", files.settings.get("token_indices"))
    if isinstance(told, dict):
        return next((v for k, v in told.items() if module == k or module.endswith("." + k)), None)
    return told


def _rows(files: Files, adapter: Adapter, name: str) -> None:
    module = name.removesuffix(ROWS)
    told = _told(files, module)
    own = dict(files.bank.model.named_parameters(remove_duplicate=False))
    weight = own.get(f"{module}.weight")
    if not told or weight is None:
        raise ArtefactError(f"the file holds rows of {module}, and the settings do not say which")
    rows = files.take(name, (len(told), weight.shape[1]))
    if not all(isinstance(i, int) and 0 <= i < len(weight) for i in told):
        raise ArtefactError(f"the settings name rows that {module} does not have")
    value = weight.detach().float().clone()
    value[list(told)] = rows.to(value.device)
    # What is tied to the embeddings is trained with them.
    adapter.weights[f"{module}.weight"] = value
