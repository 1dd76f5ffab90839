"""From names to an engine: one base in memory, and every named model of it in the bank."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung import bases
from rung.bases.loaded import quiet, read_tokenizer
from rung.data import Template
from rung.engine import Engine, ServedModel
from rung.errors import ArtefactError, BaseNotFound, ConfigError, ModelNotFound
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.store import Store
from rung.store.records import ModelRecord
from rung.types import BaseInfo, Decoding

CHAT_TOKENS = 1024  # of an answer, where neither request nor model says


@dataclass(frozen=True)
class _Named:
    """What one name stands for: a model of the store, or a base (`record` None)."""

    name: str
    base: BaseInfo
    record: ModelRecord | None = None


def load_engine(
    names: Sequence[str],
    *,
    base: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    **settings: Any,
) -> Engine:
    """An engine, not yet started, that serves the named models and their bare base.

    Args:
        names: models of the store or bases; all of one base.
        base: a base to serve beside them, or alone where no names are given.
        dtype, device: of the base, as `bases.load`.
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
    loaded = bases.load(found[0].base, dtype=dtype, device=device)
    bank = Bank(loaded.model)
    bare = _bare(loaded)
    models = {bare.name: bare}
    for one in found:
        if one.record is not None:
            models[one.name] = _adapted(one.record, bank, bare)
        elif one.name not in models:  # the base under the name that it was asked for by
            models[one.name] = dataclasses.replace(bare, name=one.name)
    return Engine(bank, models, **settings)


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
    """Put a stored model into the bank. Tokenizer, template and stop tokens are those of its folder."""
    folder = Path(record.folder)
    adapter, _ = artefact.load(folder, bank)
    settings = _generation_config(folder)
    with quiet():
        tokenizer = read_tokenizer(folder)
    return ServedModel(
        name=record.name,
        slot=bank.add(adapter),
        template=Template.of(tokenizer, generation_config=settings),
        decoding=decoding_of(settings),
        conversation=adapter.conversation,
        classifier=adapter.classifier,
        root=bare.name,
        parent=record.parent or bare.name,
        created=record.created_unix,
    )


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
