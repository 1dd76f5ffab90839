"""Export a model: write it in a format, prove by its logits that it answers alike, then keep it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from rung import bases, exports
from rung.artefacts import folders
from rung.errors import ArtefactError, ConfigError, MethodMisfit, nearest
from rung.exports.base import Export, Source
from rung.exports.proof import Proof, prove
from rung.exports.run_proof import prove_by_running
from rung.forward.bank import Bank
from rung.forward.opening import open_bank
from rung.methods import artefact
from rung.store import Store

RUNNERS = ("llama.cpp",)  # what can prove an export by running it


def export(
    name: str,
    folder: Path,
    to: str,
    dtype: str | None = None,
    store: Store | None = None,
    *,
    prove_by: str | None = None,
) -> Proof:
    """Write model `name` into `folder`.

    Args:
        to: a name of `exports.names()`.
        dtype: a precision that the format can write; None: the format's own.
        prove_by: `llama.cpp` refuses what that cannot run; by default it is run where it is there.

    Raises:
        ConfigError: for an unknown format or precision, a folder that is not empty, or a format that
            the method's models cannot be written in, or that would leave out a head.
        MethodMisfit: when the method cannot be merged, or the model has no weights at all.
        ArtefactError: when the exported model answers differently; nothing is then left behind.
        StoreError: when the disk is full.
    """
    if prove_by not in (None, *RUNNERS):
        raise ConfigError(f"--prove is '{prove_by}'{nearest(prove_by, RUNNERS)}")
    chosen = exports.get(to.replace("-", "_"))
    dtype = _precision(chosen, dtype)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty: choose another folder")
    source = _open(name, store or Store.open())
    if source.bank.reads not in chosen.reads:
        raise ConfigError(_unread(chosen, name, source))
    headed = source.adapter.reward is not None or source.adapter.mapper is not None
    if headed and not chosen.keeps_heads:
        raise ConfigError(f"--to {chosen.name} would leave out the head of '{name}': use --to peft")
    if reason := chosen.misfit(source):
        raise ConfigError(reason)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"cannot create {fault.filename}: {fault.strerror}") from None
    with folders.staged(folder.absolute()) as made:
        chosen.write(source, made, dtype)
        proof = prove(source, chosen, chosen.logits(source, made, dtype), dtype)
        ran = prove_by_running(source, chosen, made, dtype, needed=prove_by is not None)
        proof = dataclasses.replace(proof, ran=str(ran) if ran else None)
        _note(made, proof, name)
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return proof


def _unread(chosen: Export, name: str, source: Source) -> str:
    """Why a format does not take models of this kind of base, and what does."""
    others = [one for one in exports.registry.all() if source.bank.reads in one.reads]
    fits = [one.name.replace("_", "-") for one in others if one.misfit(source) is None]
    way = f"use --to {fits[0]}, or " if fits else ""
    return f"--to {chosen.name} is for other models: {way}serve it with `rung serve {name}`"


def _note(folder: Path, proof: Proof, name: str) -> None:
    """Write into the card what has been proven, and by what."""
    card = folder / "README.md"
    if card.exists():
        told = f"{proof.told(name)}, read back"
        ran = f"\n- {proof.ran}" if proof.ran else ""
        text = card.read_text(encoding="utf-8").rstrip()
        card.write_text(f"{text}\n\n## Proof of the export\n\n- {told}{ran}\n", encoding="utf-8")


def _precision(chosen: Export, dtype: str | None) -> str:
    """Return the precision to write, the format's own where none is asked for. Raises ConfigError."""
    if dtype is None:
        return next(iter(chosen.tolerance))
    if dtype in chosen.tolerance:
        return dtype
    known = {name for one in exports.registry.all() for name in one.tolerance}
    if dtype not in known:
        raise ConfigError(f"--dtype is '{dtype}'{nearest(dtype, known)}")
    own = ", ".join(chosen.tolerance)
    raise ConfigError(f"--to {chosen.name} writes {own}, not {dtype}: leave --dtype out")


def _open(name: str, store: Store) -> Source:
    """Load a model of the store and its base. Raises as `export`."""
    record = store.models.get(name)
    folder = Path(record.folder)
    about = artefact.about(folder)
    method = artefact.method_named(about["method"])
    if method.weightless:
        raise MethodMisfit(
            f"'{name}' ({method.name}) has no weights to export: serve it with "
            f"`rung serve {name}`, or read what it is in {folder / artefact.SETTINGS}"
        )
    info = bases.resolve(about["base"]["spec"])
    if info.digest != about["base"]["digest"]:
        raise ArtefactError(f"the base of '{name}' has changed: {about['base']['spec']} is another now")
    bank: Bank
    if bases.reads(Path(info.path)) == "text":
        base = bases.load(info)
        bank = Bank(base.model)
    else:
        bank = open_bank(info).bank
        base = bases.LoadedBase(bank.model, None, info)
    adapter, _ = artefact.load(folder, bank)
    return Source(
        folder=folder, about=about, base=base, bank=bank, method=method.on(bank.reads), adapter=adapter,
        lineage=store.lineage(name),
    )  # fmt: skip
