"""Load named models into an engine: one base in memory, and every named model of it in the bank."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung import bases
from rung.bases.loaded import quiet, read_tokenizer
from rung.bases.quantize import NONE
from rung.data import Template
from rung.data.picture_template import PictureTemplate
from rung.engine import Engine, ServedModel
from rung.engine.reward_model import RewardModel
from rung.errors import ArtefactError, BaseNotFound, ConfigError, ModelNotFound
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.opening import OpenedBase, open_bank
from rung.methods import artefact
from rung.methods.peft import source
from rung.store import Store
from rung.store.records import ModelRecord
from rung.tools.agent import Agent
from rung.train.estimate import device as device_of
from rung.types import BaseInfo, Decoding

CHAT_TOKENS = 1024  # maximum number of tokens of an answer, where neither request nor model says


@dataclass(frozen=True)
class Named:
    """Model of the store, an adapter in a folder that is not in the store, or a base, by its name."""

    name: str
    base: BaseInfo
    record: ModelRecord | None = None
    adapter: Path | None = None

    @property
    def folder(self) -> Path | None:
        """Where its adapter is; None for a base."""
        return self.adapter if self.record is None else Path(self.record.folder)


@dataclass(frozen=True)
class Loaded:
    """Engine, not yet started, and the base that it serves."""

    engine: Engine
    base: BaseInfo


def load_engine(names: Sequence[str], **settings: Any) -> Engine:
    """Load named models into an engine, as `load` does, and return the engine alone."""
    return load(names, **settings).engine


def load(
    names: Sequence[str],
    *,
    base: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    quantize: str | None = None,
    short: bool = False,
    tools: Sequence[str] = (),
    **settings: Any,
) -> Loaded:
    """Load named models and their bare base into an engine, which is not yet started.

    Args:
        names: models of the store or bases; all of one base.
        base: a base to serve beside them, or alone where no names are given.
        dtype, device: of the base, as `bases.load`.
        quantize: int8, int4, nf4 or none; by default what the models were trained on, where all agree.
        short: call an adapter of a folder by the folder's name instead of its path.
        tools: what the owner of this machine lets models call: an agent its own tools, any other that
            generates, the base too, these.
        settings: passed to `Engine`.

    Raises:
        ConfigError: when nothing is named, or the models stand on different bases.
        ModelNotFound: when a name is neither a model nor a base.
        ArtefactError: when a model's folder is damaged or does not fit its base.
    """
    with Store.open() as store:
        found = find_models(store, names, base, short)
    if base is not None:
        found.append(Named(base, bases.resolve(base)))
    if not found:
        raise ConfigError("name a model to serve, or a base with --base")
    found, beside = _share_base(found)
    quantize = quantize or _trained_on(found)
    info = found[0].base
    opened = open_bank(info, dtype=dtype, device=device_of(device), quantize=quantize)
    bank, bare = opened.bank, _bare(info, opened)
    models = {bare.name: bare}
    for one in found:
        if one.folder is not None:
            models[one.name] = _adapted(one, bank, bare)
        elif one.name not in models:  # the base under the name that it was asked for by
            models[one.name] = dataclasses.replace(bare, name=one.name)
    models |= {one.name: _beside(one, bank) for one in beside}
    if tools:
        agent = Agent.of(tools)
        models = {name: _with_tools(model, agent) for name, model in models.items()}
    return Loaded(Engine(bank, models, **settings), info)


def _with_tools(model: ServedModel, agent: Agent) -> ServedModel:
    """A model that may call tools, where it generates and nothing else rewrites what it is asked."""
    generates = not model.labels and model.remote is None and model.reward is None
    if not generates or model.conversation is not None:
        return model
    return dataclasses.replace(model, conversation=agent)


def reward_model(name: str, bank: Bank | None = None, **settings: Any) -> RewardModel:
    """Load a reward model, into a bank that holds its base already where one is given.

    Args:
        settings: `dtype`, `device`, `quantize` of its own base, where no bank is given.

    Raises:
        ConfigError: when it is no reward model, or stands on another base than the bank's.
        ModelNotFound, ArtefactError: as `load`.
    """
    if bank is None:
        engine = load_engine([name], **settings)
        return RewardModel(engine.bank, engine.model(name))
    with Store.open() as store:
        found = find_model(store, name)
    if bank.digest and found.base.digest != bank.digest:
        raise ConfigError(
            f"'{name}' stands on {found.base.name}, and what is trained here on another base"
        )
    if found.record is None:
        raise ConfigError(
            f"'{name}' is a base: train a reward model with rung tune NAME --objective reward"
        )
    model, adapter = read_model(Path(found.record.folder), bank, name)
    if adapter.reward is None:
        raise ConfigError(f"'{name}' is no reward model: it was made by {found.record.method} to write")
    return RewardModel(bank, dataclasses.replace(model, slot=bank.add(adapter)))


def find_models(
    store: Store, names: Sequence[str], base: str | None = None, short: bool = False
) -> list[Named]:
    """Find what names mean: models of the store, bases, and folders or repositories of adapters that
    are not in the store, which stand on the base that is named beside them, else on their own.

    Raises:
        ModelNotFound: when a name is nothing of these.
    """
    found: dict[str, Named] = {}
    adapters: dict[str, Path] = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = find_model(store, name)
        except (ModelNotFound, ArtefactError):
            if not source.is_one(name):
                raise
            adapters[name] = source.find_or_refuse(name)
    called = _called(adapters, taken=found) if short else {}
    for name, folder in adapters.items():
        beside = next((one.base for one in found.values() if one.folder is None), None)
        if base is not None:
            beside = bases.resolve(base)
        base_of = beside or _own_base(folder, name)
        found[name] = Named(called.get(name, name), base_of, adapter=folder)
    return [found[name] for name in dict.fromkeys(names)]


def _called(adapters: Mapping[str, Path], taken: Collection[str]) -> dict[str, str]:
    """What adapters in folders are called: by as much of the end of the path as tells them apart."""
    here = {name: folder for name, folder in adapters.items() if Path(name).expanduser().exists()}
    called: dict[str, str] = {}
    for name, folder in here.items():
        tails = ["/".join(folder.parts[-n:]) for n in range(1, len(folder.parts))]
        others = [*(f.as_posix() for f in here.values() if f != folder), *taken]
        called[name] = next(
            (t for t in tails if not any(f"/{o}".endswith(f"/{t}") for o in others)), name
        )
    return called


def _own_base(folder: Path, name: str) -> BaseInfo:
    """The base that an adapter says it stands on. Raises ConfigError where that is not here."""
    told = artefact.about(folder)["base"]["spec"]
    try:
        if told:
            return bases.resolve(str(told))
    except BaseNotFound:
        pass
    if not told:
        raise ConfigError(f"{name} holds an adapter, not a base: name the base it stands on beside it")
    raise ConfigError(f"{name} stands on '{told}', which is not here: name the base beside it")


def by_base(names: Sequence[str]) -> list[list[str]]:
    """Group names whose models stand on one base in as many bits, in the order given.

    Raises:
        ModelNotFound: when a name is neither a model nor a base.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    with Store.open() as store:
        for name, found in zip(dict.fromkeys(names), find_models(store, names), strict=True):
            groups.setdefault((found.base.digest, _trained_on([found])), []).append(name)
    return list(groups.values())


def check_name(name: str) -> None:
    """Raise ModelNotFound for a name that is neither a model nor a base."""
    with Store.open() as store:
        find_models(store, [name])


def find_model(store: Store, name: str) -> Named:
    try:
        record = store.models.get(name)
    except (ModelNotFound, ConfigError) as fault:
        try:
            return Named(name, bases.resolve(name))
        except BaseNotFound:
            raise ModelNotFound(f"{fault}; nor is it a base (rung bases lists them)") from None
    made_from = store.bases.get(record.base)
    info = bases.resolve(made_from.spec)
    if info.digest != record.base:
        raise ArtefactError(
            f"'{name}' was made from {made_from.name}, but {made_from.spec} holds other weights now"
        )
    return Named(name, info, record)


def _trained_on(found: Sequence[Named]) -> str:
    """Find the quantisation that all models were trained on; none for bases, or where they differ."""
    places = [one.folder for one in found if one.folder is not None]
    kinds = {artefact.about(folder).get("settings", {}).get("quantize") or NONE for folder in places}
    return kinds.pop() if len(kinds) == 1 else NONE


def _share_base(found: Sequence[Named]) -> tuple[list[Named], list[Named]]:
    """Find the models of the one base that is served, and the classifiers of pictures beside it, where
    that is a language model.

    Raises:
        ConfigError: for models that stand on other bases.
    """
    pictures = [bases.reads(Path(one.base.path)) == "pictures" for one in found]
    texts = [one for one, reads in zip(found, pictures, strict=True) if not reads]
    beside = [one for one, reads in zip(found, pictures, strict=True) if reads and one.folder]
    if not texts or len(texts) + len(beside) < len(found):
        texts, beside = list(found), []
    first = texts[0]
    for other in texts[1:]:
        if other.base.digest != first.base.digest:
            raise ConfigError(
                f"'{first.name}' stands on {first.base.name} and '{other.name}' on {other.base.name}: "
                "one process serves models of one base"
            )
    return texts, beside


def _beside(named: Named, bank: Bank) -> ServedModel:
    """Put a model of pictures into the bank of a language model, beside which it is served."""
    from rung.forward.picture_classifier import Beside
    from rung.forward.vision import open_vision

    record, folder = named.record, named.folder
    assert folder is not None
    encoder = open_vision(named.base.spec, bank.device.type, named.base.digest)
    template = PictureTemplate.of(encoder.encoder.preprocessing.as_dict())
    model, adapter = read_model(
        folder, encoder, named.name, ServedModel.of(named.base.name, -1, template),
        root=named.base.name, parent=(record and record.parent) or named.base.name,
        created=int(time.time()) if record is None else record.created_unix,
    )  # fmt: skip
    if adapter.towers is not None:
        return dataclasses.replace(model, slot=bank.add(adapter))
    classifier = Beside(encoder, adapter)
    return dataclasses.replace(
        model, slot=bank.add(Adapter(classifier=classifier)), classifier=classifier
    )


def _bare(info: BaseInfo, opened: OpenedBase) -> ServedModel:
    return ServedModel.of(
        info.name,
        -1,
        opened.template,
        decoding=decoding_of(opened.generation),
        created=int(time.time()),
        owned_by=info.organisation or "rung",
    )


def _adapted(named: Named, bank: Bank, bare: ServedModel) -> ServedModel:
    """Put a model into the bank."""
    record, folder = named.record, named.folder
    assert folder is not None
    created = int(time.time()) if record is None else record.created_unix
    model, adapter = read_model(
        folder, bank, named.name, bare, root=bare.name,
        parent=(record and record.parent) or bare.name, created=created,
    )  # fmt: skip
    return dataclasses.replace(model, slot=bank.add(adapter))


def read_model(
    folder: Path, bank: Bank, name: str, bare: ServedModel | None = None, **about: Any
) -> tuple[ServedModel, Adapter]:
    """Read a model and its adapter, which is not yet in the bank.

    Tokenizer, template and stop tokens are those of its folder.

    Args:
        bare: the base, whose tokenizer, template and decoding apply where the folder has none.
        about: further attributes of the served model, such as `parent`.
    """
    adapter, known = artefact.load(folder, bank)
    settings = _generation_config(folder)
    if bare is not None and not (folder / "tokenizer_config.json").exists():
        template = artefact.template_of(known, bare.template)
        return ServedModel.of(name, -1, template, adapter, decoding=bare.decoding, **about), adapter
    with quiet():
        tokenizer = read_tokenizer(folder)
    template = artefact.template_of(known, Template.of(tokenizer, generation_config=settings))
    decoding = decoding_of(settings)
    return ServedModel.of(name, -1, template, adapter, decoding=decoding, **about), adapter


def _generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as fault:
        raise ArtefactError(f"{path} cannot be read: {fault}") from None


def decoding_of(settings: dict[str, Any]) -> Decoding:
    """Read decoding defaults from a generation_config.json; greedy unless it says `do_sample`."""
    most = settings.get("max_new_tokens") or CHAT_TOKENS
    penalty = settings.get("repetition_penalty")
    common: dict[str, Any] = {
        "max_tokens": most, "repetition_penalty": 1.0 if penalty is None else float(penalty)
    }  # fmt: skip
    if not settings.get("do_sample"):
        return Decoding(**common)  # what tells how to draw has no meaning then
    temperature, top_p, min_p = (settings.get(k) for k in ("temperature", "top_p", "min_p"))
    top_k = settings.get("top_k")
    return Decoding(
        **common,
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        top_k=0 if top_k is None else int(top_k),
        min_p=0.0 if min_p is None else float(min_p),
    )
