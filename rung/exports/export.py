"""Export: a model as a folder that PEFT or transformers reads, proven by comparing logits."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rung import bases, methods
from rung.artefacts import folders
from rung.errors import ArtefactError, ConfigError, MethodMisfit, nearest
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.methods import artefact
from rung.methods.base import Method
from rung.store import Store

KINDS = ("peft", "merged")
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}  # of logits, which are about 10


@dataclass(frozen=True)
class Proof:
    """The largest difference of logits between the model and what was exported."""

    difference: float
    tokens: int


@dataclass
class _Source:
    folder: Path
    about: dict[str, Any]
    bank: Bank
    base: bases.LoadedBase
    method: Method
    adapter: Adapter


def export(
    name: str, folder: Path, to: str, dtype: str = "float32", store: Store | None = None
) -> Proof:
    """Write model `name` into `folder`.

    Raises:
        ConfigError: for an unknown kind, or a folder that is not empty.
        MethodMisfit: when the method cannot be merged, or the model has no weights at all.
        ArtefactError: when the exported model answers differently; nothing is then left behind.
    """
    if to not in KINDS:
        raise ConfigError(f"--to is '{to}'{nearest(to, KINDS)}")
    if dtype not in TOLERANCE:
        raise ConfigError(f"--dtype is '{dtype}'{nearest(dtype, TOLERANCE)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty: choose another folder")
    source = _open(name, store or Store.open())
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"cannot create {fault.filename}: {fault.strerror}") from None
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        logits = _merged(source, made, dtype) if to == "merged" else _peft(source, made)
        proof = _prove(source, logits, TOLERANCE[dtype if to == "merged" else "float32"])
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return proof


def _open(name: str, store: Store) -> _Source:
    record = store.models.get(name)
    folder = Path(record.folder)
    about = artefact.about(folder)
    if methods.get(about["method"]).weightless:
        raise MethodMisfit(
            f"'{name}' ({about['method']}) has no weights to export: serve it with "
            f"`rung serve {name}`, or read what it is in {folder / artefact.SETTINGS}"
        )
    base = bases.load(bases.resolve(about["base"]["spec"]))
    if base.info.digest != about["base"]["digest"]:
        raise ArtefactError(f"the base of '{name}' has changed: {about['base']['spec']} is another now")
    bank = Bank(base.model)
    adapter, _ = artefact.load(folder, bank)
    return _Source(folder, about, bank, base, methods.get(about["method"]), adapter)


def _peft(source: _Source, made: Path) -> Tensor:
    """Adapter, tokenizer and card; returns the logits of what was read back."""
    if source.method.peft_type is None:
        raise ConfigError(f"PEFT does not know {source.method.name}: use --to merged")
    for path in source.folder.iterdir():
        if path.name not in (artefact.ABOUT, folders.MANIFEST):
            shutil.copy2(path, made / path.name)
    read, _ = artefact.load(made, source.bank)
    return _logits(source.bank, source.bank.add(read))


def _merged(source: _Source, made: Path, dtype: str) -> Tensor:
    """A whole model with tokenizer and card; returns its logits."""
    weights = source.method.merged(source.adapter, source.bank)
    fresh = bases.load(source.base.info)
    own = dict(fresh.model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    fresh.model.to(getattr(torch, dtype)).save_pretrained(made)
    for path in source.folder.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "special_tokens", "vocab", "merges")):
            shutil.copy2(path, made / path.name)
    # The stop tokens travel too: without them the merged model would never end its turn.
    shutil.copy2(source.folder / "generation_config.json", made / "generation_config.json")
    shutil.copy2(source.folder / "README.md", made / "README.md")
    read = bases.load(bases.resolve(str(made)), dtype=dtype)
    return _logits(Bank(read.model), -1)


def _prove(source: _Source, theirs: Tensor, tolerance: float) -> Proof:
    ours = _logits(source.bank, source.bank.add(source.adapter))
    apart = float((ours - theirs.float()).abs().max())
    if not apart <= tolerance:
        raise ArtefactError(
            f"the exported model's logits differ by {apart:.2g}, more than {tolerance:g}: not written"
        )
    return Proof(apart, len(ours))


@torch.no_grad()
def _logits(bank: Bank, slot: int, count: int = 64) -> Tensor:
    """Logits (count, V) for a fixed row of tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(bank.config.vocab_size, (count,), generator=generator)
    trie = bank.trie([Sequence(tuple(ids.tolist()), slot=slot)])
    hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
    return bank.logits(hidden, [slot] * count).float()
