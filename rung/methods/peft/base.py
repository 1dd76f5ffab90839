"""The contract of a kind of adapter, and what all kinds have in common: settings and tensors.

Every key of `adapter_config.json` is read, known to change nothing, or at its default; else the adapter
is refused by the key's name, since whoever passes over a key may answer otherwise than PEFT.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rung.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

PREFIX = "base_model.model."
WAY_OUT = "merge it with PEFT (merge_and_unload) and use the result as a base"
# What PEFT writes for every kind, and what tells only who made it and from what.
SHARED = frozenset(
    {
        "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
        "inference_mode",
    }
)  # fmt: skip
# Which modules are adapted is seen from the tensors.
TARGETS = frozenset(
    {
        "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
        "modules_to_save", "bias",
    }
)  # fmt: skip
OFF: tuple[Any, ...] = (None, False, {}, [], "")
MAX_PATTERN_CHARACTERS = 1000  # characters of a regular expression in the settings


class UnreadError(ArtefactError):
    """An adapter that Rung's own reader does not read; PEFT's code may."""


@dataclass
class Files:
    """Settings and tensors of an adapter, by the base's own names.

    Attributes:
        tensors: without PEFT's prefix; what a reader takes is removed.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    bank: Bank
    all: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = {name.removeprefix(PREFIX): t for name, t in self.tensors.items()}
        self.all = dict(self.tensors)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor as float32, checked; -1 in the shape allows any size.

        Raises:
            ArtefactError: when it is missing, of another shape, or not finite.
        """
        from rung.methods import layers

        found = layers.tensor(self.all, name, shape)
        self.tensors.pop(name, None)
        return found

    def ending(self, end: str) -> list[str]:
        """The modules that have a tensor with this end of a name, in the file's order."""
        return [n.removesuffix(end) for n in self.all if n.endswith(end)]

    def module(self, name: str) -> tuple[Any, int, int]:
        """A projection of the base: (module, d_in, d_out), the output layer among them.

        Raises:
            ArtefactError: when the base has none of that name, or the settings do not target it.
        """
        from rung.methods import layers

        known = layers.projections(self.bank, head=True)
        if name not in known:
            raise ArtefactError(f"the base has no projection {name}: was it made for another base?")
        self.require_target(name)
        return known[name]

    def require_target(self, name: str) -> None:
        """Refuse a tensor of a module that the settings do not target: PEFT would pass over it."""
        targets = self.settings.get("target_modules")
        if targets is None or targets == "all-linear":
            return
        if isinstance(targets, str):
            hit = matches(targets, name)
        else:
            hit = any(name == t or name.endswith("." + t) for t in targets)
        if not hit:
            raise ArtefactError(f"the file holds tensors of {name}, which target_modules does not name")


def matches(pattern: str, name: str) -> bool:
    """Whether a regular expression of the settings fits a whole name. Raises ArtefactError for none."""
    try:
        return len(pattern) <= MAX_PATTERN_CHARACTERS and re.fullmatch(pattern, name) is not None
    except re.error as fault:
        raise ArtefactError(f"'{pattern:.80}' is no regular expression: {fault}") from None


def of_pattern(patterns: Mapping[str, Any] | None, name: str, fallback: Any) -> Any:
    """A module's value in `rank_pattern` or `alpha_pattern`: the first key that ends its name."""
    for key, value in (patterns or {}).items():
        if matches(rf"(.*\.)?({key})", name):
            return value
    return fallback


class Kind(ABC):
    """One kind of adapter that PEFT writes. Instances hold no state.

    Attributes:
        peft_type: PEFT's name of it.
        method: Rung's method whose adapters these are, or None where Rung trains none of this kind.
        read_keys: settings that `read` heeds. passed: settings that change nothing in what is read.
        defaults: settings that are not read, with the only values that they may have.
    """

    peft_type: ClassVar[str]
    method: ClassVar[str | None] = None
    read_keys: ClassVar[frozenset[str]] = frozenset()
    passed: ClassVar[frozenset[str]] = frozenset()
    defaults: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(self, name: str):
        self.name = name

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse settings that `read` does not heed.

        Raises:
            UnreadError: naming the key.
        """
        known = SHARED | TARGETS | self.read_keys | self.passed
        task = settings.get("task_type")
        if task not in (None, "CAUSAL_LM"):
            raise ArtefactError(f"this adapter is for {task}, and Rung adapts causal language models")
        for key, value in settings.items():
            if key in known or value in self.defaults.get(key, OFF):
                continue
            raise UnreadError(
                f"this adapter sets {key} to {value!s:.60}, which Rung does not read: {WAY_OUT}"
            )

    @abstractmethod
    def read(self, files: Files) -> Adapter:
        """The adapter in checked files, without what `extras.read` reads for every kind.

        Raises:
            ArtefactError: naming the tensor that is missing, of a wrong shape, or not finite.
        """
