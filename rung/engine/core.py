"""One step of generation: let go, admit, read a piece of the new prompts, one token for everybody."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rung.engine.prefill import PrefillChunk
from rung.engine.registry import Registry
from rung.engine.request import EngineFault
from rung.engine.request_state import RequestState
from rung.engine.sampler import draw, tell
from rung.engine.scheduler import Scheduler
from rung.errors import RungError
from rung.forward.bank import Bank

SLICE = 128  # prompt positions whose logits are held at once
REST = 64  # steps between two looks at whether less memory would do


class EngineCore:
    """Call it for a step."""

    def __init__(self, bank: Bank, scheduler: Scheduler, registry: Registry):
        self.bank, self.scheduler, self.registry = bank, scheduler, registry
        self._steps = 0

    def __call__(self) -> None:
        scheduler = self.scheduler
        self._steps += 1
        if self._steps % REST == 0:
            scheduler.rest()
        scheduler.sweep()
        self.registry.retire(self._in_use)
        scheduler.admit(self._settle)
        scheduler.make_room()
        if pieces := scheduler.pieces():
            self._read(pieces)
        scheduler.make_room()
        decoding = scheduler.running[: scheduler.decoding]
        if guesses := scheduler.guesses():
            self._follow(decoding, guesses)
        elif decoding:
            self._advance(decoding, self._decode(decoding))

    def _in_use(self) -> set[int]:
        return {r.slot for r in self.scheduler.running} | self.scheduler.waiting.slots()

    def _settle(self, request: RequestState) -> bool:
        """Have a newcomer's adapter in the bank."""
        try:
            self.registry.settle(request.slot, {r.slot for r in self.scheduler.running})
        except RungError as fault:
            request.fail(fault)
            return False
        return True

    # --- prompts --------------------------------------------------------------------------------

    def _read(self, pieces: Sequence[tuple[RequestState, PrefillChunk]]) -> None:
        """Read pieces; those that are read to their end draw their first token."""
        hidden = self._hidden([chunk for _, chunk in pieces])
        ready: list[tuple[RequestState, Tensor]] = []
        for (request, chunk), rows in zip(pieces, hidden, strict=True):
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
            ready.sort(key=lambda pair: pair[0].lane)  # who stands first is promoted without a swap
            requests = [r for r, _ in ready]
            logits = self.bank.logits(torch.stack([h for _, h in ready]), [r.slot for r in requests])
            for request in requests:
                self.scheduler.promote(request)
            self._advance(requests, logits)

    def _hidden(self, chunks: list[PrefillChunk]) -> list[Tensor]:
        """Hidden states (n, d) of each piece.

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
        """Log-probabilities of the prompt's tokens that follow those of a piece."""
        wanted = request.generation.request.prompt_logprobs
        first = len(request.told) - chunk.begin  # the row that predicts the first one still untold
        for at in range(first, min(len(hidden), request.prompt - 1 - chunk.begin), SLICE):
            last = min(at + SLICE, len(hidden), request.prompt - 1 - chunk.begin)
            logits = self.bank.logits(hidden[at:last], [request.slot] * (last - at))
            targets = request.ids[chunk.begin + at + 1 : chunk.begin + last + 1]
            ids = torch.tensor(targets, device=logits.device)
            request.told += tell(logits, ids, [wanted] * len(targets))

    # --- one token each -------------------------------------------------------------------------

    def _decode(self, decoding: Sequence[RequestState]) -> Tensor:
        """Logits (B, V) of what follows.

        Adapters of a batch are multiplied together, so where one's values overflow each is computed
        again alone, and only the one at fault stays spoiled.
        """
        runner = self.scheduler.runner
        ids, slots = [r.ids[-1] for r in decoding], [r.slot for r in decoding]
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

    def _follow(self, decoding: Sequence[RequestState], guesses: Sequence[Sequence[int]]) -> None:
        """Read what may come next behind what is certain, and draw as long as the guess is right.

        Every token is drawn from the distribution behind the tokens before it, as it is without a
        guess, so answers are the same (the greedy and the sampled ones).
        """
        chunks = [
            PrefillChunk(r.lane, r.slot, [*r.ids, *guess], r.read, len(r.ids) + len(guess), r.front)
            for r, guess in zip(decoding, guesses, strict=True)
        ]
        for request, guess, rows in zip(decoding, guesses, self._hidden(chunks), strict=True):
            logits = self.bank.logits(rows[-len(guess) - 1 :], [request.slot] * (len(guess) + 1))
            right = 0
            for i in range(len(logits)):
                request.read = len(request.ids)
                self._advance([request], logits[i : i + 1])
                if request.lane < 0 or i == len(guess) or request.ids[-1] != guess[i]:
                    break
                right += 1
            if guess:
                request.lookup.outcome(len(guess), right)
            if request.lane >= 0:
                self.scheduler.runner.cut(request.lane, request.front, request.read)

    def _advance(self, requests: Sequence[RequestState], logits: Tensor) -> None:
        """Draw a token for each, hand it on, and free the lanes of those who are done."""
        finite = _finite(logits).tolist()
        ids = draw(logits, [r.draw for r in requests])
        told = tell(logits, ids, [r.draw.logprobs for r in requests])
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
                self.scheduler.remember(request)
                left.append(request)
        for request in sorted(left, key=lambda r: -r.lane):  # from the end: nobody has to move up
            self.scheduler.release(request)

    def _fail(self, request: RequestState) -> None:
        self.scheduler.release(request)
        request.fail(EngineFault(f"the model '{request.name}' computed values that are not finite"))


def _finite(logits: Tensor) -> Tensor:
    """(N, V) -> (N,): whether a row has a largest value at all."""
    return logits.amax(-1).isfinite()
