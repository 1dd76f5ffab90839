"""The probe: which way of computing a base gives what transformers gives for the untouched model.

When a bank attaches, a few short rows go through the model as it came, ids in and logits out, each row
by itself. Every way that Rung computes passes in is held against that: a trie, padded rows, rows one by
one, embeddings in place of ids, the output layer apart from the model. What differs is done by the
model's own code, or the base is refused by name; no list of architectures decides.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rung.errors import ConfigError
from rung.forward import feature_cache, padded, selfcheck
from rung.forward.findings import Findings
from rung.forward.trie import Sequence as Row
from rung.forward.trie import Trie
from rung.home import folder

if TYPE_CHECKING:
    from rung.forward.backbone import Backbone

SHORT, LONG = 8, 24  # tokens of the probe's rows
BEYOND = 2  # how far behind the end of the context a neighbour is placed, in contexts


def examine(bank: Backbone, try_trie: Callable[[], str | None]) -> Findings:
    """Find how a base is to be computed, or what was found before for these weights and versions.

    Args:
        try_trie: switches the base's attention to tries -> why it cannot be, having switched it back.

    Raises:
        ConfigError: when no way gives what transformers gives for the untouched model.
    """
    path = _path(bank)
    found = _kept(path)
    if found is None:
        found = _Probe(bank).findings(try_trie)
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(asdict(found)), encoding="utf-8")
    elif found.trie is None:
        bank.model.set_attn_implementation("rung")
    return found


def tokens(bank: Backbone, count: int) -> list[int]:
    """Token ids that are none of the special ones at the start of a vocabulary."""
    return [(100 + 37 * i) % bank.vocabulary for i in range(count)]


def _path(bank: Backbone) -> Path | None:
    """Where findings are kept: by weights, precision, device, and the versions that compute."""
    import transformers

    from rung.version import __version__

    versions = [transformers.__version__, torch.__version__, __version__]
    name = feature_cache.key(bank, "probe", str(bank.device), type(bank.model).__name__, versions)
    return None if name is None else folder("cache") / "probes" / f"{name}.json"


def _kept(path: Path | None) -> Findings | None:
    """What was found before; None where nothing was, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return None if path is None else Findings(**json.loads(path.read_text(encoding="utf-8")))
    return None


class _Probe:
    """The untouched model's answers, and what is compared with them."""

    def __init__(self, bank: Backbone):
        self.bank, self.model = bank, bank.model
        ids = tokens(bank, LONG)
        self.rows = [ids[:SHORT], ids[: SHORT // 2] + ids[SHORT : SHORT * 3 // 2], ids]
        self.hidden: list[Tensor] = []
        self.logits: list[Tensor] = []

    @torch.no_grad()
    def findings(self, try_trie: Callable[[], str | None]) -> Findings:
        self.bank.plan = self.bank.slots = None
        self._ask_untouched()
        causal = self._causal()
        head = self._head()
        found = self._alone(head)
        together = self._together(replace(found, together=None))
        found = replace(found, together=together, causal=causal)
        trie = next((why for why in (causal, found.embeddings, together) if why is not None), None)
        self.bank.findings = found
        return replace(found, trie=try_trie() if trie is None else trie)

    def _alone(self, head: str | None) -> Findings:
        """What rows are computed from, one by one: embeddings or ids, with or without positions."""
        faults: list[str] = []
        for embeddings in (None, "it answers otherwise to embeddings than to ids"):
            for positions in (None, "it counts positions in a way of its own"):
                found = Findings(together="", embeddings=embeddings, positions=positions, head=head)
                fault = self._by(found, self.rows[:2])
                if fault is None:
                    return replace(found, virtual=embeddings or self._virtual())
                faults.append(fault)
        self._require(faults[-1])
        raise AssertionError

    def _ask_untouched(self) -> None:
        for row in self.rows:
            try:
                ids = self._ids(row)
                with self._watched() as seen:
                    self.logits.append(self.model(input_ids=ids, use_cache=False).logits[0])
                self.hidden.append(seen[0] if len(seen) == 1 else self._states(ids))
            except (*selfcheck.FAULTS, AssertionError) as fault:
                self._require(f"transformers cannot run it on plain text: {selfcheck.reason(fault)}")

    @contextlib.contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """The states (T, d) of each pass below the output layer while this lasts."""
        seen: list[Tensor] = []
        hook = self.bank.base_model.register_forward_hook(
            lambda module, given, out: seen.append(padded.states_of(out)[0])
        )
        try:
            yield seen
        finally:
            hook.remove()

    def _ids(self, row: Sequence[int]) -> Tensor:
        return torch.tensor([list(row)], device=self.bank.device)

    def _states(self, ids: Tensor) -> Tensor:
        return padded.states_of(self.bank.base_model(input_ids=ids, use_cache=False))[0]

    def _require(self, fault: str | None) -> None:
        if fault is not None:
            kind = self.bank.config.model_type
            raise ConfigError(
                f"a base of the kind {kind} ({type(self.model).__name__}) cannot be adapted or "
                f"served: {fault}"
            )

    def _agree(self, compute: Callable[[], list[tuple[Tensor, Tensor]]]) -> str | None:
        return selfcheck.fault(compute, self.bank.dtype)

    def _causal(self) -> str | None:
        """Why a beginning's states are not those of the beginning alone."""
        half = self._ids(self.rows[0][: SHORT // 2])
        fault = self._agree(lambda: [(self.hidden[0][: SHORT // 2], self._states(half))])
        return None if fault is None else "each token sees those behind it: it is no causal model"

    def _head(self) -> str | None:
        """Why logits are not a product with the output layer; checks that the model forms them."""
        pairs = list(zip(self.hidden, self.logits, strict=True))
        plain = self._agree(lambda: [(self.bank.own_head().logits(h), own) for h, own in pairs])
        if plain is None:
            return None
        asked = self.bank.model_head()
        fault = self._agree(lambda: [(asked.logits(h), own) for h, own in pairs])
        self._require(None if fault is None else f"its output layer cannot be asked alone: {fault}")
        return plain

    def _by(self, findings: Findings, rows: list[list[int]], wanted: int | None = None) -> str | None:
        """Why padded rows under such findings do not give the untouched model's states."""
        bank = self.bank
        bank.findings = findings

        def compute() -> list[tuple[Tensor, Tensor]]:
            trie = Trie.build([Row(r) for r in rows], share=False)
            hidden = padded.forward(bank, trie, bank.entering(trie))
            kept = [self.hidden[self.rows.index(r)] for r in rows]
            pairs = [(hidden[torch.from_numpy(p)], own) for p, own in zip(trie.rows, kept, strict=True)]
            return pairs[:wanted]

        return self._agree(compute)

    def _virtual(self) -> str | None:
        """Why vectors that are no token's embedding cannot be read."""
        trie = Trie.build([Row(self.rows[0])])
        try:
            states = padded.forward(self.bank, trie, self.bank.entering(trie) * 1.25)
        except selfcheck.FAULTS as fault:
            return selfcheck.reason(fault)
        return None if bool(states.isfinite().all()) else "they give values that are not finite"

    def _together(self, findings: Findings) -> str | None:
        """Why rows cannot be computed side by side."""
        fault = self._by(findings, [self.rows[0], self.rows[2]])
        if fault is not None:
            return f"rows side by side change each other: {fault}"
        for end in (BEYOND * self.bank.context, self.bank.context):
            try:
                beside = self._beside(end)
            except selfcheck.FAULTS:
                continue  # a table of positions ends with the context
            pair = beside, self.hidden[0]
            fault = self._agree(lambda pair=pair: [pair])  # type: ignore[misc]
            self._states(self._ids(self.rows[0][:1]))  # positions that grew shrink again
            if fault is None:
                return None
            return f"its positions depend on the longest row: {fault}"
        return None

    def _beside(self, end: int) -> Tensor:
        """The short row's states beside a neighbour that stands in front of a far position."""
        if not padded.takes_positions(self.bank):
            raise NotImplementedError
        near = torch.arange(SHORT, device=self.bank.device)
        positions = torch.stack([near, near + end - SHORT])
        ids = self._ids(self.rows[0]).expand(2, -1)
        out = self.bank.base_model(input_ids=ids, position_ids=positions, use_cache=False)
        return padded.states_of(out)[0]
