"""Finding the parts of a base that methods change: projections, decoder layers, final norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.errors import ArtefactError, MethodMisfit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

PEFT_PREFIX = "base_model.model."

_ATTENTION = ("attn", "attention")


def projections(bank: Bank, head: bool = False) -> dict[str, tuple[nn.Module, int, int]]:
    """Every projection inside the backbone: name -> (module, d_in, d_out).

    Args:
        head: the output layer too.

    GPT-2 keeps its projections as Conv1D with the weight transposed; quantised ones count too, since
    that is used is their width. Left out are those whose weight the base reads without calling them,
    where what stands beside them would do nothing, and routers, which answer with more than a product.
    """
    out = bank.model.get_output_embeddings()
    found, left = {}, bank.uncalled | bank.many_valued
    for name, module in bank.model.named_modules():
        width = _width(module) if name not in left else None
        if width and (head or module is not out):
            found[name] = (module, *width)
    return found


def read_by_text(bank: Bank) -> dict[str, tuple[nn.Module, int, int]]:
    """As `projections`, without those that no text goes through, such as a picture tower's."""
    beside = bank.beside_text
    inside = tuple(f"{name}." for name in beside)
    every = projections(bank).items()
    return {n: p for n, p in every if n not in beside and not n.startswith(inside)}


def _width(module: Any) -> tuple[int, int] | None:
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":
        return tuple(module.weight.shape)
    return None


def transposed(module: Any) -> bool:
    """Whether the module keeps its weight as (d_in, d_out)."""
    return type(module).__name__ == "Conv1D"


def chosen(
    bank: Bank, targets: list[str], flag: str = "--targets"
) -> dict[str, tuple[nn.Module, int, int]]:
    """The projections that `targets` name, of those that a text goes through.

    Each target is `all-linear`, `attention`, `mlp`, or the end of a module's name.

    Raises:
        MethodMisfit: for a target that names nothing, with the names there are.
    """
    every = read_by_text(bank)
    result = {}
    for target in targets:
        hits = {n: p for n, p in every.items() if _is_target(n, target)}
        if not hits:
            ends = sorted({n.rpartition(".")[2] for n in every})
            raise MethodMisfit(
                f"{flag} '{target}' names no projection of this base; there are: "
                f"all-linear, attention, mlp, {', '.join(ends)}"
            )
        result.update(hits)
    return {n: every[n] for n in every if n in result}


def _is_target(name: str, target: str) -> bool:
    in_attention = any(word in part for part in name.split(".") for word in _ATTENTION)
    if target == "all-linear":
        return True
    if target == "attention":
        return in_attention
    if target == "mlp":
        return not in_attention
    return name == target or name.endswith("." + target)


def decoder_layers(bank: Bank) -> list[str]:
    """Names of the decoder layers, first to last.

    Raises:
        MethodMisfit: when the base has no list of layers.
    """
    if not bank.layer_names:
        raise MethodMisfit("no list of decoder layers was found in this base")
    return bank.layer_names


def tensor(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor from a file as float32, checked; -1 in the shape allows any size.

    Raises:
        ArtefactError: when it is missing, of another shape, or not finite.
    """
    if name not in tensors:
        raise ArtefactError(f"tensor {name} is missing")
    found = tensors[name]
    fits = len(found.shape) == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, found.shape, strict=True)
    )
    if not fits:
        raise ArtefactError(
            f"tensor {name} has shape {tuple(found.shape)}, this base needs {shape}: "
            "was it made for another base?"
        )
    if not bool(found.isfinite().all()):
        raise ArtefactError(f"tensor {name} holds values that are not finite")
    return found.float()


def labels(settings: dict[str, Any]) -> tuple[str, ...]:
    """The labels of a kept classifier, checked.

    Raises:
        ArtefactError: when they are no list of two different names at least.
    """
    found = settings.get("labels")
    plain = isinstance(found, list) and all(isinstance(name, str) for name in found)
    if not plain or len(found) < 2 or len(set(found)) < len(found):  # type: ignore[arg-type]
        raise ArtefactError("settings.json: 'labels' must name two different labels at least")
    return tuple(found)  # type: ignore[arg-type]


def from_copies(tensors: dict[str, Tensor], bank: Bank) -> Adapter:
    """An adapter from stored copies, named `weights.PARAMETER`.

    Raises:
        ArtefactError: for a parameter that the base does not have or has in another shape.
    """
    from rung.forward.adapter import Adapter

    own = dict(bank.model.named_parameters())
    weights = {}
    for key in tensors:
        name = key.removeprefix("weights.")
        if name not in own:
            raise ArtefactError(f"the base has no parameter {name}: was it made for another base?")
        weights[name] = tensor(tensors, key, tuple(own[name].shape))
    if not weights:
        raise ArtefactError("the file holds no weights")
    return Adapter(weights=weights).to(bank.device)
