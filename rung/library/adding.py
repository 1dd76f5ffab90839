"""Adding a model that somebody else made: an adapter in PEFT's layout, proven and recorded."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import bases
from rung.artefacts import folders
from rung.artefacts.cards import Card, write_card
from rung.artefacts.licences import tightest
from rung.data import Template
from rung.errors import BaseNotFound, ConfigError
from rung.exports import proof
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.methods.peft import source as places
from rung.methods.peft import through_peft
from rung.store import Store
from rung.version import __version__

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.store.records import ModelRecord
    from rung.types import BaseInfo


@dataclass(frozen=True)
class Added:
    """A model that was added, and by how much its logits differ from PEFT's; None: no PEFT."""

    model: ModelRecord
    difference: float | None


def add(
    name: str, source: str, base: str | None = None, replace: bool = False, store: Store | None = None
) -> Added:
    """Read an adapter, prove it against PEFT where that is installed, and keep it as model `name`.

    Args:
        source: a folder, such as a checkpoint, or a repository on the Hub.
        base: what it stands on; by default what its settings name.
        replace: take the place of a model of that name.

    Raises:
        ConfigError: for a name that is taken, or an adapter whose base is not told.
        ArtefactError: when it is no adapter, unsafe, or answers otherwise than PEFT.
    """
    folders.model_name(name)
    store = store or Store.open()
    if not replace and any(model.name == name for model in store.models.list()):
        raise ConfigError(f"the model '{name}' exists: choose another name, or --replace it")
    store.models.check(name)
    folder = places.find_or_refuse(source)
    places.inspect(folder)
    settings = folders.read_json(folder / artefact.CONFIG)
    info = base_of(settings, base, source)
    if bases.reads(Path(info.path)) != "text":
        raise ConfigError(
            f"{source} stands on {info.name}, which reads pictures, and holds no classifier to serve: "
            "train one with rung tune NAME --method lora"
        )
    loaded = bases.load(info)
    bank = Bank(loaded.model, info.digest)
    adapter, about = artefact.load(folder, bank)
    _refuse_more_than_weights(adapter, source)
    difference = prove(folder, bank, adapter)
    template = Template.of(
        _tokenizer(folder) or loaded.tokenizer, generation_config=_generation(loaded)
    )
    kept = {
        "rung": __version__, "method": about["method"], "template": template.fingerprint,
        **artefact.calls_of(template),
        "base": {"name": info.name, "spec": info.spec, "digest": info.digest},
        "settings": {}, "source": source if not Path(source).exists() else Path(source).name,
    }  # fmt: skip
    if added := _added_tokens(adapter, loaded.tokenizer, template.tokenizer):
        kept["added_tokens"] = added
    licence = tightest([info.licence_class])

    def fill(temporary: Path) -> None:
        for path in places.files(folder):
            shutil.copyfile(path, temporary / path.name)
        _name_base(temporary / artefact.CONFIG, settings, info)
        template.save(temporary)
        (temporary / "generation_config.json").write_text(
            json.dumps({**_generation(loaded), "eos_token_id": list(template.stop_ids)}, indent=2)
            + "\n"
        )
        (temporary / artefact.ABOUT).write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
        card = Card(
            name=name, base=info.spec, base_name=info.name, method=about["method"],
            hub_base=info.extra.get("hub_id", ""),
            licence=info.licence, licence_class=licence, cost={"parameters": adapter.size},
        )  # fmt: skip
        write_card(temporary, card)

    target = folders.model_folder(name)
    store.models.check(name)  # somebody may have made a model of it meanwhile
    folders.write(target, fill)
    cost = {"parameters": adapter.size}
    model = store.models.put(name, method=about["method"], base=info, folder=target, cost=cost)
    return Added(model, difference)


def _added_tokens(adapter: Adapter, base: Any, own: Any) -> dict[str, int]:
    """The tokens that an adapter has rows for and its base's tokenizer does not know: `{text: id}`."""
    ids = adapter.tokens.ids if adapter.tokens is not None else ()
    return {own.convert_ids_to_tokens(i): i for i in ids if len(base) <= i < len(own)}


def _refuse_more_than_weights(adapter: Adapter, source: str) -> None:
    """Refuse a folder that Rung made of more than PEFT's layout holds.

    Raises:
        ConfigError: naming what would be lost.
    """
    more = {"a reward head": adapter.reward, "tools": adapter.conversation, "a mapper": adapter.mapper}
    lost = [what for what, there in more.items() if there is not None]
    if lost:
        raise ConfigError(
            f"{source} has {lost[0]}, which rung add does not take along: tune it here, or point "
            "RUNG_HOME at the home that it was made in"
        )


def base_of(settings: dict[str, Any], base: str | None, source: str) -> BaseInfo:
    """The base that an adapter stands on.

    Raises:
        ConfigError: when neither the caller nor the adapter names one that is there.
    """
    told = base or settings.get("base_model_name_or_path")
    if not told:
        raise ConfigError(f"{source} does not say what base it stands on: say it with --base")
    try:
        return bases.resolve(str(told))
    except BaseNotFound as fault:
        if base is not None:
            raise
        raise ConfigError(
            f"{source} stands on '{told}', which is not here: say it with --base ({fault})"
        ) from None


def prove(folder: Path, bank: Bank, adapter: Adapter) -> float | None:
    """By how much our logits differ from PEFT's, of the largest; None where PEFT is not installed.

    Raises:
        ArtefactError: when they differ by more than rounding, or PEFT cannot load the adapter.
    """
    return proof.against_peft(folder, bank, adapter) if through_peft.installed() else None


def _tokenizer(folder: Path) -> Any:
    from rung.bases.loaded import quiet, read_tokenizer

    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    with quiet():
        return read_tokenizer(folder)


def _generation(loaded: bases.LoadedBase) -> dict[str, Any]:
    found = loaded.model.generation_config.to_diff_dict()
    return {k: v for k, v in found.items() if k != "transformers_version"}


def _name_base(path: Path, settings: dict[str, Any], info: BaseInfo) -> None:
    """Name the base as others find it, in place of a path on somebody's disk."""
    told = {**settings, "base_model_name_or_path": info.extra.get("hub_id") or info.name}
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
