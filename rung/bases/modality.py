"""What a base reads, as its folder or the catalogue says, without loading it."""

from __future__ import annotations

from pathlib import Path

from rung.bases.entries import entry_of
from rung.bases.folder import read_json
from rung.errors import ArtefactError, BaseNotFound
from rung.types import Modality

# The kinds of vision encoders, as `model_type` of a config.json names them.
VISION = ("clip", "siglip", "vit", "dinov2", "convnext", "resnet", "efficientnet-lite")


def family_of(path: Path) -> str | None:
    """The kind of vision encoder that a folder holds; None for one that reads no pictures."""
    if not (path / "config.json").is_file():
        return None
    told = str(read_json(path / "config.json").get("model_type")).removesuffix("_vision_model")
    return told if told in VISION else None


def reads(path: Path) -> Modality:
    """What the base in a folder reads."""
    return "text" if family_of(path) is None else "pictures"


def reads_spec(spec: str) -> Modality:
    """What the base of a spec reads: by the catalogue, else by its folder, which is fetched for it.

    What cannot be found counts as text; whoever loads it says what is wrong.
    """
    from rung.bases import hub, source

    entry = entry_of(spec.strip())
    if entry is not None:
        return "pictures" if entry.modality == "vision" else "text"
    try:
        if not source.local(spec).is_dir() and not hub.ID.fullmatch(spec.strip()):
            return "text"  # a GGUF file, a fresh model, an API
        return reads(Path(source.resolve(spec).path))
    except (ArtefactError, BaseNotFound):
        return "text"
