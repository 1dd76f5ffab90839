"""What any kind of adapter may bring besides: whole modules, biases, rows of the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft import tables
from rung.methods.peft.tables import ROWS

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.methods.peft.base import Files


def read(files: Files, adapter: Adapter) -> None:
    """Add what is left of an adapter's tensors to it.

    Raises:
        ArtefactError: naming a tensor that the base has no parameter for, or the settings do not
            announce.
    """
    from rung.forward.dora import DoraOp

    own = dict(files.bank.model.named_parameters(remove_duplicate=False))
    whole = {}
    adapter.tokens = tables.read(files, adapter)
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


def _rows(files: Files, adapter: Adapter, name: str) -> None:
    module = name.removesuffix(ROWS)
    told = tables.told(files, module)
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
