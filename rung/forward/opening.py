"""Opening a base: from its folder to a bank and the template that renders for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung import bases
from rung.bases.quantize import NONE
from rung.data import Template
from rung.data.picture_template import PictureTemplate
from rung.errors import ConfigError
from rung.forward.bank import Bank
from rung.forward.compiled import compiler
from rung.types import BaseInfo


@dataclass(frozen=True)
class OpenedBase:
    """A base in memory. `generation` is its generation_config.json."""

    bank: Bank
    template: Template
    generation: dict[str, Any] = field(default_factory=dict)


def open_bank(
    info: BaseInfo,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantize: str | None = None,
    place: Callable[[Any, str, str], None] | None = None,
    decodes: bool = True,
) -> OpenedBase:
    """Load a resolved base into a bank of its kind: of language models, or of vision encoders.

    Args:
        dtype, device, quantize: as `bases.load`; a vision encoder computes in float32 on a CPU.
        place: how a launch puts a language model's weights there, as `bases.load`.
        decodes: whether texts will be written, whose steps are compiled meanwhile.

    Raises:
        ArtefactError, ConfigError: as `bases.load`.
    """
    if bases.reads(Path(info.path)) == "pictures":
        return _vision(info, dtype, device, quantize)
    if decodes and device == "cpu" and (dtype == "float32" or quantize not in (None, NONE)):
        compiler.begin()
    base = bases.load(info, dtype=dtype, device=device, quantize=quantize, place=place)
    model = base.model
    generation = model.generation_config.to_dict()
    template = Template.of(base.tokenizer, generation_config=model.generation_config)
    return OpenedBase(Bank(model, info.digest), template, generation)


def _vision(info: BaseInfo, dtype: str, device: str, quantize: str | None) -> OpenedBase:
    from rung.forward.picture_bank import PictureBank
    from rung.pictures.encoder import load

    if quantize not in (None, NONE):
        raise ConfigError(f"--quantize {quantize} is for language models: leave it out for pictures")
    encoder = load(info, dtype="float32" if device == "cpu" else dtype, device=device)
    return OpenedBase(PictureBank(encoder), PictureTemplate.of(encoder.preprocessing.as_dict()))
