"""From names to an engine: one base in memory, and every named model of it in the bank.

Models also come and go while the engine runs: those that jobs make, and those that are deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import bases
from rung.artefacts import folders
from rung.bases.loaded import quiet, read_tokenizer
from rung.bases.quantize import NONE
from rung.data import Template
from rung.engine import Engine, ServedModel
from rung.errors import ArtefactError, BaseNotFound, ConfigError, ModelNotFound, RungError
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.store import Store
from rung.store.records import ModelRecord
from rung.store.serving import CheckpointRecord, JobRecord
from rung.train.estimate import device as device_of
from rung.types import BaseInfo, Decoding

if TYPE_CHECKING:
    from rung.server.state import Service

log = logging.getLogger("rung.server")

CHAT_TOKENS = 1024  # of an answer, where neither request nor model says


@dataclass(frozen=True)
class _Named:
    """What one name stands for: a model of the store, or a base (`record` None)."""

    name: str
    base: BaseInfo
    record: ModelRecord | None = None


@dataclass(frozen=True)
class Loaded:
    """An engine and the base it stands on."""

    engine: Engine
    base: BaseInfo


def load_engine(names: Sequence[str], **settings: Any) -> Engine:
    """The engine alone; as `load`."""
    return load(names, **settings).engine


def load(
    names: Sequence[str],
    *,
    base: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    quantize: str | None = None,
    **settings: Any,
) -> Loaded:
    """An engine, not yet started, that serves the named models and their bare base.

    Args:
        names: models of the store or bases; all of one base.
        base: a base to serve beside them, or alone where no names are given.
        dtype, device: of the base, as `bases.load`.
        quantize: int8, nf4 or none; by default what the models were trained on, where all agree.
        settings: passed to `Engine`.

    Raises:
        ConfigError: when nothing is named, or the models stand on different bases.
        ModelNotFound: when a name is neither a model nor a base.
        ArtefactError: when a model's folder is damaged or does not fit its base.
    """
    with Store.open() as store:
        found = [_find(store, name) for name in dict.fromkeys(names)]
    if base is not None:
        found.append(_Named(base, bases.resolve(base)))
    if not found:
        raise ConfigError("name a model to serve, or a base with --base")
    _share_base(found)
    quantize = quantize or _trained_on(found)
    loaded = bases.load(found[0].base, dtype=dtype, device=device_of(device), quantize=quantize)
    bank = Bank(loaded.model)
    bare = _bare(loaded)
    models = {bare.name: bare}
    for one in found:
        if one.record is not None:
            models[one.name] = _adapted(one.record, bank, bare)
        elif one.name not in models:  # the base under the name that it was asked for by
            models[one.name] = dataclasses.replace(bare, name=one.name)
    return Loaded(Engine(bank, models, **settings), loaded.info)


def by_base(names: Sequence[str]) -> list[list[str]]:
    """The names in groups that stand on one base in as many bits, in the order given.

    Raises:
        ModelNotFound: when a name is neither a model nor a base.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    with Store.open() as store:
        for name in dict.fromkeys(names):
            found = _find(store, name)
            groups.setdefault((found.base.digest, _trained_on([found])), []).append(name)
    return list(groups.values())


def _find(store: Store, name: str) -> _Named:
    try:
        record = store.models.get(name)
    except (ModelNotFound, ConfigError) as fault:
        try:
            return _Named(name, bases.resolve(name))
        except BaseNotFound:
            raise ModelNotFound(f"{fault}; nor is it a base (rung bases lists them)") from None
    made_from = store.bases.get(record.base)
    info = bases.resolve(made_from.spec)
    if info.digest != record.base:
        raise ArtefactError(
            f"'{name}' was made from {made_from.name}, but {made_from.spec} holds other weights now"
        )
    return _Named(name, info, record)


def _trained_on(found: Sequence[_Named]) -> str:
    """The quantisation that all named models were trained on; none for bases, or where they differ."""
    places = [Path(one.record.folder) for one in found if one.record is not None]
    kinds = {artefact.about(folder).get("settings", {}).get("quantize") or NONE for folder in places}
    return kinds.pop() if len(kinds) == 1 else NONE


def _share_base(found: Sequence[_Named]) -> None:
    first = found[0]
    for other in found[1:]:
        if other.base.digest != first.base.digest:
            raise ConfigError(
                f"'{first.name}' stands on {first.base.name} and '{other.name}' on {other.base.name}: "
                "one process serves models of one base"
            )


def _bare(loaded: bases.LoadedBase) -> ServedModel:
    settings = loaded.model.generation_config.to_dict()
    return ServedModel(
        name=loaded.info.name,
        slot=-1,
        template=Template.of(loaded.tokenizer, generation_config=settings),
        decoding=decoding_of(settings),
        created=int(time.time()),
        owned_by=loaded.info.organisation or "rung",
    )


def _adapted(record: ModelRecord, bank: Bank, bare: ServedModel) -> ServedModel:
    """Put a stored model into the bank."""
    model, adapter = _read(
        Path(record.folder), bank, name=record.name, root=bare.name,
        parent=record.parent or bare.name, created=record.created_unix,
    )  # fmt: skip
    return dataclasses.replace(model, slot=bank.add(adapter))


def _read(folder: Path, bank: Bank, **values: Any) -> tuple[ServedModel, Adapter]:
    """A model and its adapter, not yet in the bank. Tokenizer, template and stop tokens are those of
    its folder."""
    adapter, _ = artefact.load(folder, bank)
    settings = _generation_config(folder)
    with quiet():
        tokenizer = read_tokenizer(folder)
    model = ServedModel(
        slot=-1,
        template=Template.of(tokenizer, generation_config=settings),
        decoding=decoding_of(settings),
        conversation=adapter.conversation,
        classifier=adapter.classifier,
        remote=adapter.remote,
        **values,
    )
    return model, adapter


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as fault:
        raise ArtefactError(f"{path} cannot be read: {fault}") from None


def decoding_of(settings: dict[str, Any]) -> Decoding:
    """Decoding defaults of a generation_config.json; greedy unless it says `do_sample`."""
    most = settings.get("max_new_tokens") or CHAT_TOKENS
    if not settings.get("do_sample"):
        return Decoding(max_tokens=most)
    temperature, top_p = settings.get("temperature"), settings.get("top_p")
    return Decoding(
        max_tokens=most,
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
    )


# --- while the engine runs ------------------------------------------------------------------------


def served_name(job: JobRecord, organisation: str, base: str) -> str:
    """`ft:BASE:ORGANISATION:SUFFIX:ID`, as OpenAI names what a job made."""
    short = job.id.removeprefix("ftjob-")[:12]
    return f"ft:{base}:{organisation}:{job.suffix or ''}:{short}"


def serve_job(service: Service, job: JobRecord) -> str:
    """Serve what a job made under its long name and, where it has one, its suffix.

    The newest job of a suffix has it. Checkpoints are served beside it.

    Raises:
        ArtefactError: when the model's folder is damaged.
    """
    bare = base_of(service)
    record = service.store.models.get(job.name)
    name = served_name(job, service.settings.organisation, bare.name)
    with service.loading:
        model = _put(service, Path(record.folder), bare, record, name)
        service.stored[name] = job.name
        if job.suffix:
            service.engine.load(dataclasses.replace(model, name=job.suffix))
            service.stored[job.suffix] = job.name
            service.aliases.add(job.suffix)
        for one in service.store.jobs.checkpoints(job.id).items:
            _put(service, Path(one.folder), bare, record, checkpoint_name(name, one))
    return name


def serve_kept(service: Service, name: str) -> None:
    """Serve a model of the store under its own name.

    Raises:
        ModelNotFound: naming the nearest.
        ConfigError: when it stands on another base than this server's.
        ArtefactError: when its folder is damaged.
    """
    found, bare = _find(service.store, name), base_of(service)
    own = bases.resolve(service.settings.base) if service.settings.base else None
    if found.record is None or own is None or found.base.digest != own.digest:
        raise ConfigError(f"'{name}' stands on {found.base.name}: this server has {bare.name}")
    with service.loading:
        _put(service, Path(found.record.folder), bare, found.record, name)


def checkpoint_name(name: str, checkpoint: CheckpointRecord) -> str:
    """What a checkpoint of a served model goes by."""
    return f"{name}:{checkpoint.model}"


def _put(
    service: Service, folder: Path, bare: ServedModel, record: ModelRecord, name: str
) -> ServedModel:
    engine = service.engine
    made, adapter = _read(
        folder, engine.bank, name=name, root=bare.name, parent=record.parent or bare.name,
        created=record.created_unix, owned_by=service.settings.organisation,
    )  # fmt: skip
    return engine.load(made, adapter)


def serve_jobs(service: Service) -> None:
    """Serve what earlier jobs made on this base; a model that is damaged or gone is left out."""
    done = service.store.jobs.list(statuses=["succeeded"], limit=10_000).items
    for job in sorted(done, key=lambda j: j.created):
        if job.base == service.settings.base:
            try:
                serve_job(service, job)
            except RungError as fault:
                log.warning("the model of job %s is not served: %s", job.id, fault)


def base_of(service: Service) -> ServedModel:
    """The bare base under its own name."""
    return next(m for m in service.engine.models.values() if m.slot == -1)


def stored_name(service: Service, name: str) -> str:
    """What a served model is called in the store."""
    return service.stored.get(name, name)


def stop_serving(service: Service, name: str) -> None:
    """Take a model out of the engine, under all its names, and out of the store.

    Raises:
        ModelNotFound: naming the nearest. ApiError: for the base. InUse: for a parent of others.
    """
    from rung.server.errors import ApiError

    model = service.engine.model(name)
    if model.root is None:
        raise ApiError(f"'{name}' is the base, which every model here needs", status=403)
    stored = stored_name(service, name)
    with contextlib.suppress(ModelNotFound, ConfigError):
        service.store.models.remove(stored)
        folder = folders.model_folder(stored)
        if folder.is_dir() and not folder.is_symlink():
            folders.remove(folder)
    with service.loading:
        for other, one in list(service.engine.models.items()):
            if one.slot == model.slot or _checkpoint_of(other, stored, service):
                service.engine.unload(other)
                service.aliases.discard(other)


def _checkpoint_of(name: str, stored: str, service: Service) -> bool:
    """Whether a served name is a checkpoint of a model of the store."""
    whole, mark, _ = name.partition(":ckpt-step-")
    return bool(mark) and service.stored.get(whole) == stored
