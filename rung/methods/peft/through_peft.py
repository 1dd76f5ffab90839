"""Adapters that only PEFT's own code reads, merged by it into a copy of the base.

What is read so is proven by logits, PEFT's before it merges against ours after it, or refused. It takes
as much memory as the parameters that it changes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.artefacts import folders
from rung.errors import ArtefactError
from rung.methods.peft.base import OFF, WAY_OUT

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

TOLERANCE = 1e-4  # of the largest logit
TOKENS = 24  # of the row that is compared


def installed() -> bool:
    """Whether PEFT can be asked."""
    return importlib.util.find_spec("peft") is not None


def read(folder: Path, bank: Bank, kind: str, why: str) -> Adapter:
    """The adapter in a folder that was inspected, as weights of its own.

    Args:
        why: what Rung's own reader said of it.

    Raises:
        ArtefactError: where PEFT is not there, cannot merge it, or answers otherwise once merged.
    """
    import torch

    from rung.forward.adapter import Adapter

    if bank.reads != "text":
        raise ArtefactError(why)
    if not installed():
        raise ArtefactError(f"{why} (or install peft, with which Rung can)")
    _require_known_keys(folder, kind)
    with _quiet(), torch.no_grad():
        theirs = _loaded(folder, bank, kind)
        wanted = _logits(theirs, bank)
        if not hasattr(theirs.base_model, "merge_and_unload"):
            raise ArtefactError(
                f"{kind} adapters change no weights that could be served: use PEFT itself"
            )
        try:
            merged = theirs.merge_and_unload(safe_merge=True)
        except Exception as fault:
            reason = " ".join(str(fault).split())[:160] or type(fault).__name__
            raise ArtefactError(
                f"{kind} adapters cannot be served: PEFT cannot merge it ({reason})"
            ) from None
        own = dict(bank.model.named_parameters(remove_duplicate=False))
        found = dict(merged.named_parameters(remove_duplicate=False))
        if set(found) != set(own):
            raise ArtefactError(f"{kind} adapters change how the model is built: serve it with PEFT")
        weights = {
            name: tensor.detach().float().clone()
            for name, tensor in found.items()
            if not tensor.detach().equal(own[name].detach().to(tensor.device))
        }
    adapter = Adapter(weights=_untied(weights, own, bank)).to(bank.device)
    _prove(adapter, bank, wanted, kind)
    return adapter


def logits(folder: Path, bank: Bank, row: list[int], tokens: int = 0) -> Tensor:
    """PEFT's logits (n, V) for a row of tokens, of an adapter in a folder, with a copy of the base.

    Args:
        tokens: that the copy is resized to, where those are more than the base has.

    Raises:
        ArtefactError: where PEFT cannot load it.
    """
    import torch

    with _quiet(), torch.no_grad():
        theirs = _loaded(folder, bank, "", tokens)
        return _logits(theirs, bank, row)


def inserted(folder: Path, model: Any) -> Any:
    """A copy of a model with PEFT's layers of an adapter in a folder in it.

    Raises:
        ArtefactError: where PEFT cannot load it.
    """
    from peft import PeftModel

    with _quiet():
        try:
            theirs = PeftModel.from_pretrained(copy.deepcopy(model), str(folder), is_trainable=False)
        except Exception as fault:
            reason = " ".join(str(fault).split())[:160] or type(fault).__name__
            raise ArtefactError(f"PEFT cannot load this adapter: {reason}") from None
    return theirs.eval().get_base_model()


def _require_known_keys(folder: Path, kind: str) -> None:
    """PEFT passes over keys that it does not know, which may be of a later version."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    config = next((c for t, c in CONFIGS.items() if t.value == kind), None)
    if config is None:
        raise ArtefactError(f"adapters of the kind {kind} are known neither to Rung nor to this PEFT")
    known = {f.name for f in dataclasses.fields(config)}
    for key, value in folders.read_json(folder / "adapter_config.json").items():
        if key not in known and value not in OFF:
            raise ArtefactError(f"this adapter sets {key}, which this PEFT does not know: {WAY_OUT}")


def _loaded(folder: Path, bank: Bank, kind: str, tokens: int = 0) -> Any:
    """PEFT's model over a copy of the base, resized to so many tokens where it has fewer."""
    from peft import PeftModel

    base = _copy(bank)
    if tokens > bank.vocabulary:
        base.resize_token_embeddings(tokens, mean_resizing=False)
    try:
        return PeftModel.from_pretrained(base, str(folder), is_trainable=False).eval()
    except Exception as fault:
        reason = " ".join(str(fault).split())[:160] or type(fault).__name__
        raise ArtefactError(f"PEFT cannot load this {kind or 'adapter'}: {reason}") from None


def _copy(bank: Bank) -> Any:
    """A model with the base's weights, without anything of the bank's."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(bank.model.config)
    config._attn_implementation = bank.own_attention
    fresh = AutoModelForCausalLM.from_config(config, dtype=bank.dtype)
    fresh.load_state_dict(bank.model.state_dict())
    return fresh.to(bank.device).eval()


def _row(bank: Bank) -> list[int]:
    return [(100 + 37 * i) % bank.vocabulary for i in range(TOKENS)]


def _logits(model: Any, bank: Bank, row: list[int] | None = None) -> Tensor:
    import torch

    ids = torch.tensor([_row(bank) if row is None else row], device=bank.device)
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    return out[-ids.shape[1] :].float()


def _untied(weights: dict[str, Tensor], own: dict[str, Any], bank: Bank) -> dict[str, Tensor]:
    """With the base's own beside those changed parameters that are tied to an unchanged one."""
    for name in list(weights):
        for other in bank.names(own[name]):
            weights.setdefault(other, own[other].detach().float().clone())
    return weights


def _prove(adapter: Adapter, bank: Bank, wanted: Tensor, kind: str) -> None:
    import torch

    from rung.forward.trie import Sequence

    slot = bank.add(adapter)
    try:
        with torch.no_grad():
            trie = bank.trie([Sequence(_row(bank), slot=slot)])
            hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
            apart = (bank.logits(hidden, [slot] * TOKENS).float() - wanted).abs().max()
    finally:
        bank.remove(slot)
    if not float(apart / wanted.abs().max()) <= TOLERANCE:
        raise ArtefactError(
            f"{kind} adapters cannot be served: merged, it answers otherwise (by {float(apart):.2g})"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    from rung.bases.loaded import quiet

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what PEFT's optional parts say of each other
    try:
        import peft  # noqa: F401
    finally:
        logging.disable(before)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        yield
