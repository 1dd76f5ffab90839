"""Generation queue: each step admits requests, prefills chunks of prompts, and decodes a token each."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from rung.engine.prefill import PrefillChunk
from rung.engine.registry import Registry
from rung.engine.request import EngineFault, Generation, GenerationRequest, Request
from rung.engine.request_state import RequestState
from rung.engine.sampler import draw, tell, tell_drawn
from rung.engine.scheduler import Scheduler
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError, RungError
from rung.forward.bank import Bank

log = logging.getLogger("rung.engine")

MAX_LOGITS = 128  # maximum number of prompt positions whose logits are held at once
STEPS_BETWEEN_LOOKS = 64  # steps after which it is seen whether less memory would do


class GenerateQueue:
    """Requests to models that generate; see `queues.base.Queue`."""

    def __init__(self, bank: Bank, scheduler: Scheduler, registry: Registry):
        self.bank, self.scheduler, self.registry = bank, scheduler, registry
        self._steps = 0

    def __len__(self) -> int:
        return len(self.scheduler.running) + len(self.scheduler.waiting)

    def accepts(self, request: Request, model: ServedModel) -> bool:
        generates = model.classifier is None and model.remote is None
        return isinstance(request, GenerationRequest) and generates

    def prepare(self, generation: Generation, model: ServedModel) -> RequestState:
        if model.towers is not None:
            raise ConfigError(
                f"'{model.name}' gives vectors of pictures and texts (/v1/embeddings) and writes none"
            )
        if why := self.registry.bank.findings.causal:
            raise ConfigError(f"'{model.name}' cannot generate: {why}")
        return RequestState.of(generation, model, self.registry)

    def add(self, batch: list[RequestState], patient: bool = False) -> None:
        self.scheduler.waiting.add(batch, patient)

    def slots(self) -> set[int]:
        return self.scheduler.slots()

    def fail_all(self, fault: RungError) -> None:
        self.scheduler.fail_all(fault)

    def step(self, bank: Bank) -> bool:
        """Give everybody a token; a fault ends what is in flight and nothing more."""
        try:
            self._step()
        except Exception as fault:
            log.exception("a step of the engine failed")
            self.scheduler.fail_running(fault)
        return self.scheduler.busy

    def _step(self) -> None:
        scheduler = self.scheduler
        self._steps += 1
        if self._steps % STEPS_BETWEEN_LOOKS == 0:
            scheduler.give_back()
        scheduler.drop_ended()
        scheduler.admit(self._make_resident)
        scheduler.preempt()
        if chunks := scheduler.schedule_prefill():
            self._prefill(chunks)
        scheduler.preempt()
        decoding = scheduler.running[: scheduler.decoding]
        if drafts := scheduler.draft():
            self._verify(decoding, drafts)
        elif decoding:
            self._advance(decoding, self._decode(decoding))

    def _make_resident(self, request: RequestState) -> bool:
        """Put a newcomer's adapter into the bank; False where that failed, and the request with it."""
        try:
            self.registry.make_resident(request.slot, self.scheduler.running_slots())
        except RungError as fault:
            request.fail(fault)
            return False
        return True

    # --- prefill --------------------------------------------------------------------------------

    def _prefill(self, chunks: Sequence[tuple[RequestState, PrefillChunk]]) -> None:
        """Prefill chunks; requests whose prompt is read to its end draw their first token."""
        hidden = self._hidden([chunk for _, chunk in chunks])
        ready: list[tuple[RequestState, Tensor]] = []
        for (request, chunk), rows in zip(chunks, hidden, strict=True):
            if not bool(rows.isfinite().all()):
                self._fail(request)
                continue
            request.read = chunk.end
            self.scheduler.runner.keep(chunk)
            if request.wants_prompt:
                self._tell_prompt(request, chunk, rows)
            if request.unread:
                continue
            if request.end > request.prompt:
                ready.append((request, rows[-1]))
            else:
                self.scheduler.release(request)
                request.finish("length")
        if ready:
            ready.sort(key=lambda pair: pair[0].lane)  # who stands first needs no swap
            requests = [r for r, _ in ready]
            logits = self.bank.logits(torch.stack([h for _, h in ready]), [r.slot for r in requests])
            for request in requests:
                self.scheduler.start_decoding(request)
            self._advance(requests, logits)

    def _hidden(self, chunks: list[PrefillChunk]) -> list[Tensor]:
        """Compute the hidden states (n, d) of each chunk.

        A text whose values overflow spoils its neighbours in the trie, so where that happens each is
        read again alone, and only the one at fault stays spoiled.
        """
        runner = self.scheduler.runner
        read = runner.read(chunks)
        found = [read.hidden[rows] for rows in read.rows]
        if len(chunks) > 1 and not bool(read.hidden.isfinite().all()):
            for i, chunk in enumerate(chunks):
                if not bool(found[i].isfinite().all()):
                    again = runner.read([chunk])
                    found[i] = again.hidden[again.rows[0]]
        return found

    def _tell_prompt(self, request: RequestState, chunk: PrefillChunk, hidden: Tensor) -> None:
        """Compute the log-probabilities of the prompt's tokens that follow those of a chunk."""
        wanted = request.prompt_logprobs
        first = len(request.told) - chunk.begin  # the row that predicts the first one still untold
        for at in range(first, min(len(hidden), request.prompt - 1 - chunk.begin), MAX_LOGITS):
            last = min(at + MAX_LOGITS, len(hidden), request.prompt - 1 - chunk.begin)
            logits = self.bank.logits(hidden[at:last], [request.slot] * (last - at))
            targets = request.ids[chunk.begin + at + 1 : chunk.begin + last + 1]
            ids = torch.tensor(targets, device=logits.device)
            request.told += tell(logits, ids, [wanted] * len(targets))

    # --- decoding -------------------------------------------------------------------------------

    def _decode(self, decoding: Sequence[RequestState]) -> Tensor:
        """Append everybody's last token -> logits (B, V) of what follows.

        Adapters of a batch are multiplied together, so where one's values overflow each is computed
        again alone, and only the one at fault stays spoiled.
        """
        runner = self.scheduler.runner
        ids, slots = [r.ids[-1] for r in decoding], [r.decodes_as for r in decoding]
        logits = runner.decode(ids, slots)
        for request in decoding:
            request.read += 1
        sound = _finite(logits)
        if not bool(sound.all()) and len(set(slots)) > 1:
            bad = (~sound).nonzero()[:, 0].tolist()
            for slot in sorted({slots[i] for i in bad}):
                lanes = [i for i in bad if slots[i] == slot]
                logits[lanes] = runner.decode_again(lanes, [ids[i] for i in lanes], [slot] * len(lanes))
        return logits

    def _verify(self, decoding: Sequence[RequestState], drafts: Sequence[Sequence[int]]) -> None:
        """Read drafts behind what is certain, and draw as long as they are right.

        Every token is drawn from the distribution behind the tokens before it, as it is without a
        draft, so answers are the same (the greedy and the sampled ones).
        """
        chunks = [
            PrefillChunk(
                r.lane, r.slot, [*r.ids, *draft], r.read, len(r.ids) + len(draft), r.front, r.begins
            )
            for r, draft in zip(decoding, drafts, strict=True)
        ]
        for request, draft, rows in zip(decoding, drafts, self._hidden(chunks), strict=True):
            logits = self.bank.logits(rows[-len(draft) - 1 :], [request.slot] * (len(draft) + 1))
            right = 0
            for i in range(len(logits)):
                request.read = len(request.ids)
                self._advance([request], logits[i : i + 1])
                if request.lane < 0 or i == len(draft) or request.ids[-1] != draft[i]:
                    break
                right += 1
            if draft:
                request.speculation.verified(right)
            if request.lane >= 0:
                self.scheduler.runner.cut(request.lane, request.front, request.read)

    def _advance(self, requests: Sequence[RequestState], logits: Tensor) -> None:
        """Draw a token for each, hand it on, and free the lanes of those who are done."""
        finite = _finite(logits).tolist()
        ids = draw(logits, [r.draw for r in requests])
        told = tell_drawn(logits, ids, [r.draw for r in requests])
        left = []
        for i, (request, token) in enumerate(zip(requests, ids.tolist(), strict=True)):
            if not finite[i]:
                self._fail(request)
                continue
            try:
                done = request.accept(token, told[i])
            except RungError as fault:
                self.scheduler.release(request)
                request.fail(fault)
                continue
            if done:
                self.scheduler.keep_prefix(request)
                left.append(request)
        for request in sorted(left, key=lambda r: -r.lane):  # from the end: nobody has to move up
            self.scheduler.release(request)

    def _fail(self, request: RequestState) -> None:
        self.scheduler.release(request)
        request.fail(EngineFault(f"the model '{request.name}' computed values that are not finite"))


def _finite(logits: Tensor) -> Tensor:
    """Say of each row of (N, V) whether it has a largest value at all: (N,) of bool."""
    return logits.amax(-1).isfinite()
