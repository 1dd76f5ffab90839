"""Where other people's adapters come from: folders, Trainer's checkpoints, repositories on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rung.artefacts import safety
from rung.bases import hub
from rung.bases.source import local
from rung.errors import ArtefactError, BaseNotFound

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# All that is read of such a folder; what a trainer leaves beside it, such as pickles, is not touched.
FILES = (
    CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json",
    "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
    "generation_config.json",
)  # fmt: skip


def find(source: str) -> Path | None:
    """The folder of an adapter that PEFT wrote; None where the source is none.

    Raises:
        BaseNotFound: for a repository that cannot be reached.
    """
    path = local(source)
    if path.is_dir():
        return path.resolve() if (path / CONFIG).is_file() else None
    if not hub.ID.fullmatch(source.removeprefix("hub:")):
        return None
    path = hub.fetch_files(source.removeprefix("hub:"), FILES)
    return path if (path / CONFIG).is_file() else None


def find_or_refuse(source: str) -> Path:
    """As `find`. Raises ArtefactError where the source is no adapter."""
    found = find(source)
    if found is None:
        raise ArtefactError(f"{source} has no {CONFIG}: give a folder or repository that PEFT wrote")
    return found


def inspect(folder: Path) -> None:
    """Refuse what is unsafe among the files that are read.

    Raises:
        ArtefactError: naming the file.
    """
    for path in files(folder):
        safety.inspect_file(path, path.name)
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise ArtefactError(
            f"{folder} has its weights as a pickle (adapter_model.bin): loading it could run code; "
            "load it with PEFT and save it again, which writes safetensors"
        )


def files(folder: Path) -> Iterator[Path]:
    """The files of an adapter that are read, those that there are.

    Raises:
        ArtefactError: for a link that leads out of the folder, and out of the Hub's cache.
    """
    inside = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    for name in FILES:
        path = folder / name
        if path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in inside):
            raise ArtefactError(f"{name} in {folder} links out of the folder: copy the file in")
        if path.is_file():
            yield path


def is_one(source: str) -> bool:
    """Whether a source is an adapter; False too where that cannot be found out."""
    try:
        return find(source) is not None
    except BaseNotFound:
        return False
