"""The contract of an export format: write a model into a folder, then read that folder back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from rung.bases import LoadedBase
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods.base import Method
    from rung.store.records import Node
    from rung.types import Modality


@dataclass(frozen=True)
class LlamaFiles:
    """What llama.cpp runs for a proof: a model's GGUF, and a LoRA or a vector to put on it."""

    model: Path
    lora: Path | None = None
    control_vector: Path | None = None


@dataclass(kw_only=True)
class Source:
    """The model to export, loaded.

    Attributes:
        folder: the model's own, with adapter, tokenizer, card and `generation_config.json`.
        about: what its `rung.json` says.
        bank: holds the base; the adapter is not in it yet.
        lineage: the model with everything that it was made from; None of one that no store knows.
    """

    folder: Path
    about: dict[str, Any]
    base: LoadedBase
    bank: Bank
    method: Method
    adapter: Adapter
    lineage: Node | None = None


class Export(ABC):
    """One format that other tools read. Instances hold no state.

    Attributes:
        summary: one line for help.
        reads: what bases of its models read.
        keeps_heads: whether what reads a model's states is written, such as a reward model's head.
        tolerance: the precisions that it can write, the default first, and by how much logits (about 10
            in size) may then differ from the model's.
    """

    summary: ClassVar[str]
    reads: ClassVar[tuple[Modality, ...]] = ("text",)
    keeps_heads: ClassVar[bool] = False
    tolerance: ClassVar[Mapping[str, float]] = {"float32": 1e-3}

    def __init__(self, name: str):
        self.name = name

    def misfit(self, source: Source) -> str | None:
        """Say why this model cannot be written so, and what to do instead; None if it can."""
        return None

    @abstractmethod
    def write(self, source: Source, folder: Path, dtype: str) -> None:
        """Write the model into an empty folder.

        Args:
            dtype: a key of `tolerance`.

        Raises:
            MethodMisfit: when the adapter cannot be expressed in this format.
        """

    def proven_by(self) -> str:
        """Whose code reads the folder back for `logits`; "" where that goes without saying."""
        return ""

    @abstractmethod
    def logits(self, source: Source, folder: Path, dtype: str) -> Tensor:
        """Read the folder back and return its logits (n, V) for the tokens of `proof.row`, or, of a
        model that reads pictures, its vectors as `picture_proof.vectors` gives them."""

    def llama_files(self, source: Source, folder: Path, work: Path) -> LlamaFiles | None:
        """The files in the folder that llama.cpp runs, and the base's where an adapter stands alone.

        Args:
            work: an empty folder for what is written for the proof alone.

        Returns:
            None where llama.cpp cannot run what is written.
        """
        return None
