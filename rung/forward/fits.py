"""Whether an adapter fits a base: its modules, its parameters and their shapes."""

from __future__ import annotations

from rung.errors import ArtefactError
from rung.forward.adapter import Adapter
from rung.forward.backbone import Backbone


def check(backbone: Backbone, adapter: Adapter) -> None:
    """Refuse an adapter that a base cannot carry.

    Raises:
        ArtefactError: when it names a module or parameter that the base does not have, or one of
            another shape.
    """
    missing = [n for n in adapter.linear if n not in backbone.modules]
    if missing:
        raise ArtefactError(f"the base has no module {missing[0]}: was it made for another base?")
    own = dict(backbone.model.named_parameters(remove_duplicate=False))
    for name, tensor in adapter.weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ArtefactError(f"the base has no parameter {name} of shape {tuple(tensor.shape)}")
    read = [n for n in adapter.weights if backbone.carries_trie and backbone.read_by_others(n)]
    if read:
        raise ArtefactError(f"{read[0]} is read in a way that cannot be told apart by adapter")
    if adapter.embeddings is not None and backbone.findings.virtual is not None:
        raise ArtefactError(f"this base takes no virtual tokens: {backbone.findings.virtual}")
    if adapter.embeddings is not None and adapter.embeddings.shape[1] != backbone.width:
        raise ArtefactError(
            f"virtual tokens are {adapter.embeddings.shape[1]} wide, the base's {backbone.width}"
        )
    if adapter.tokens is not None and (why := adapter.tokens.check(backbone)):
        raise ArtefactError(why)
    if adapter.sight:
        adapter.sight.check(backbone.width, backbone.findings.virtual)
