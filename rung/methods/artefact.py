"""A model's folder: written in PEFT's layout where PEFT knows the method, read back for any base.

Files: `adapter_config.json` and `adapter_model.safetensors`, or `settings.json` and
`weights.safetensors` for methods that PEFT does not know (whichever of the two they have); what a
method's `to_folder` adds, such as the index of its documents; the head of a reward model; `tools.json`,
with the tools that it was trained to call; `rung.json` with what else is needed to understand them;
tokenizer and template; `generation_config.json`. The manifest and the card come from the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import bases, methods
from rung.artefacts import cards, folders
from rung.config import as_dict
from rung.errors import ArtefactError
from rung.methods import peft
from rung.methods.base import Method
from rung.methods.peft import extras, source, through_peft
from rung.methods.peft.base import WAY_OUT, Files, UnreadError
from rung.methods.peft.source import CONFIG
from rung.tools.agent import Agent
from rung.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from rung.data import Template
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.reward_head import RewardHead
    from rung.types import BaseInfo

ABOUT = "rung.json"
CALLS = "calls"  # the field of it that says who writes calls
SETTINGS = "settings.json"


def save(
    folder: Path,
    adapter: Adapter,
    bank: Bank,
    method: Method,
    config: Any,
    base: BaseInfo,
    template: Template,
    about: dict[str, Any],
    name: str = "",
) -> BaseInfo:
    """Fill an existing folder.

    Args:
        about: what `rung.json` says beside method and base.
        name: of the model, for one that becomes a base of its own.

    Returns:
        the base that the model stands on: `base`, or itself.
    """
    settings, tensors = method.to_files(adapter, bank, config)
    write_adapter(folder, method, settings, tensors, base)
    method.to_folder(adapter, bank, folder)
    if adapter.reward is not None:
        adapter.reward.write(folder)
    if isinstance(adapter.conversation, Agent) and not method.weightless:
        adapter.conversation.write(folder)
    template.save(folder)
    if method.own_base:
        method.to_base(adapter, bank, folder)
        about = {**about, "begun_from": base.spec}
        base = bases.standing_alone(name, folder, base.licence)
    _write_json(folder / "generation_config.json", {"eos_token_id": list(template.stop_ids)})
    kept = {
        "rung": __version__,
        "method": method.name,
        "config": as_dict(config),
        "base": {"name": base.name, "spec": base.spec, "digest": base.digest},
        "template": template.fingerprint,
        **calls_of(template),
        **({"added_tokens": dict(template.added)} if template.added else {}),
        **about,
    }
    _write_json(folder / ABOUT, kept)
    return base


def calls_of(template: Template) -> dict[str, str]:
    """What `rung.json` says of how calls of tools are written: by the chat template, where it can."""
    return {} if template.calls is None else {CALLS: "template"}


def template_of(about: Mapping[str, Any], template: Template) -> Template:
    """The template as the model of a `rung.json` was trained behind it.

    Models that were made before chat templates wrote calls go on with Rung's own form.
    """
    if "rung" not in about or CALLS in about:
        return template
    return replace(template, calls=None)


def write_adapter(
    folder: Path,
    method: Method,
    settings: dict[str, Any],
    tensors: dict[str, Tensor],
    base: BaseInfo,
) -> None:
    """The adapter's own files."""
    from safetensors.torch import save_file

    plain = {n: t.detach().cpu().float().contiguous().clone() for n, t in tensors.items()}
    if method.peft_type is None:
        if plain:
            save_file(plain, folder / "weights.safetensors", metadata={"format": "pt"})
        if settings:
            _write_json(folder / SETTINGS, settings)
        return
    save_file(plain, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    shared = {
        "peft_type": method.peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.extra.get("hub_id") or cards.hub_id(base.spec) or base.name,
        "inference_mode": True,
    }
    _write_json(folder / CONFIG, {**shared, **settings})


def read_back(adapter: Adapter, bank: Bank, method: Method, config: Any) -> str | None:
    """Why what would be written of an adapter cannot be read again, before hours are spent on it."""
    kind = peft.of_type(method.peft_type or "")
    if kind is None:
        return None
    settings, tensors = method.to_files(adapter, bank, config)
    copies = {n: t.detach().cpu().float().contiguous() for n, t in tensors.items()}
    try:
        kind.check({"peft_type": method.peft_type, **settings})
        files = Files(settings, copies, bank)
        again = kind.read(files)
        extras.read(files, again)
    except ArtefactError as fault:
        return f"what it writes could not be read again: {fault}"
    ours, theirs = adapter.kept().parameters(), again.parameters()
    same = adapter.activation == again.activation and all(
        n in theirs and t.detach().cpu().equal(theirs[n].cpu()) for n, t in ours.items()
    )
    return None if same else "what it writes would be read as something else"


def about(folder: Path) -> dict[str, Any]:
    """What is known of a folder without its weights: `rung.json`, or what PEFT's settings tell.

    Raises:
        ArtefactError: when the folder is no adapter, or of a kind that Rung does not know.
    """
    folder = Path(folder)
    if (folder / ABOUT).exists():
        return folders.read_json(folder / ABOUT)
    if not (folder / CONFIG).exists():
        raise ArtefactError(f"{folder} holds neither {ABOUT} nor adapter_config.json: no adapter")
    settings = folders.read_json(folder / CONFIG)
    return {
        "method": method_of(str(settings.get("peft_type"))).name,
        "base": {"spec": settings.get("base_model_name_or_path")},
    }


def method_of(peft_type: str) -> Method:
    """The method whose adapters PEFT calls by this type, or one that only reads them."""
    kind = peft.of_type(peft_type)
    if kind is not None and kind.method is not None:
        return methods.get(kind.method)
    return methods.of_peft_type(peft_type) or Imported(peft_type.lower())


def method_named(name: str) -> Method:
    """The method of a model's `rung.json`: a registered one, or a kind that is only read."""
    return methods.get(name) if name in methods.names() else Imported(name)


class Imported(Method):
    """A kind of adapter that PEFT trains and Rung only serves. `name` is PEFT's type in lower case."""

    summary = "made with PEFT"
    trained = False

    def __init__(self, name: str):
        super().__init__(name)
        self.peft_type = name.upper()  # type: ignore[misc]


def load(folder: Path, bank: Bank) -> tuple[Adapter, dict[str, Any]]:
    """Read an adapter that Rung or PEFT wrote, checked against the bank's base.

    Returns:
        the adapter, not yet resident, and what `about` says.

    Raises:
        ArtefactError: when a file is damaged or unsafe, or does not fit this base.
    """
    folder = Path(folder)
    known = about(folder)
    if (folder / folders.MANIFEST).exists():
        folders.verify(folder)
    elif (folder / ABOUT).exists():
        folders.inspect(folder)
    else:
        source.inspect(folder)  # of what others wrote, only what is read
    from rung.mapping import mapper

    mapped = mapper.there(folder)
    method = method_named(known["method"]).on(bank.reads)
    if mapped and known["method"] == mapper.METHOD:  # no language model is asked
        adapter = _bare()
    elif (folder / CONFIG).exists():
        adapter = _of_peft(folder, method, bank)
    else:
        adapter = method.from_files(*_own(folder), bank)
    method.from_folder(adapter, bank, folder)
    adapter.mapper = mapper.read(folder) if mapped else None
    adapter.reward = _reward_head(folder, bank)
    adapter.conversation = Agent.read_folder(folder) or adapter.conversation
    return adapter, known


def _bare() -> Adapter:
    from rung.forward.adapter import Adapter

    return Adapter()


def _of_peft(folder: Path, method: Method, bank: Bank) -> Adapter:
    """The adapter in PEFT's layout: by Rung's own reader of its kind, else by PEFT's code."""
    from safetensors.torch import load_file

    settings = folders.read_json(folder / CONFIG)
    tensors = load_file(_there(folder / "adapter_model.safetensors"))
    peft_type = str(settings.get("peft_type"))
    kind = peft.of_type(peft_type)
    if kind is None and method.peft_type == peft_type and not isinstance(method, Imported):
        return method.from_files(settings, tensors, bank)
    try:
        if kind is None:
            raise UnreadError(f"adapters of PEFT's kind {peft_type} are not read by Rung: {WAY_OUT}")
        kind.check(settings)
        files = Files(settings, tensors, bank)
        adapter = kind.read(files)
        extras.read(files, adapter)
        return adapter.to(bank.device)
    except UnreadError as fault:
        return through_peft.read(folder, bank, peft_type, str(fault))


def _reward_head(folder: Path, bank: Bank) -> RewardHead | None:
    """The head of a reward model, on the bank's device."""
    from rung.forward.reward_head import RewardHead

    if bank.reads == "pictures":
        return None
    head = RewardHead.read(folder, bank.width, bank.vocabulary, bank.layers.count)
    return head and replace(head, weight=head.weight.to(bank.device))


def verb(folder: str | Path) -> str:
    """Name the verb that asks the model of a folder first, see `cards.verb`."""
    from rung.forward.reward_head import FILE

    return cards.verb((Path(folder) / FILE).exists())


def _own(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a method that PEFT does not know; it has one of them at least."""
    from safetensors.torch import load_file

    settings, weights = folder / SETTINGS, folder / "weights.safetensors"
    if settings.exists() and not weights.exists():
        return folders.read_json(settings), {}
    return (folders.read_json(settings) if settings.exists() else {}), load_file(_there(weights))


def _there(path: Path) -> Path:
    if not path.exists():
        raise ArtefactError(f"{path.parent} has no {path.name}: it is incomplete")
    return path


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
