"""The engine: many requests for many models over one bank, one token each per step.

Requests join and leave between steps (continuous batching, as in Orca, OSDI 2022). `start` runs the
steps on a thread; without it `generate` runs them on the caller's, so that a training loop can draw
rollouts from the weights it trains.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rung.engine.models import ServedModel
from rung.engine.request import (
    Completion,
    ContextExceeded,
    EngineFault,
    EngineStopped,
    Generation,
    GenerationRequest,
    Listener,
)
from rung.engine.runner import runner_of
from rung.engine.running import Running
from rung.engine.sampler import draw
from rung.engine.scheduler import Scheduler
from rung.errors import ConfigError, ModelNotFound, nearest
from rung.forward.bank import Bank

log = logging.getLogger("rung.engine")

CONTEXT = 2048  # tokens, for bases that do not say
MEMORY = 0.4  # share of the free memory that keys and values may take


class Engine:
    """Batched generation.

    Args:
        bank: the base with its resident adapters.
        models: who can be asked, by name.
        max_batch: requests that run at once.
        max_waiting: requests that wait at most; beyond it `submit` raises Busy.
        cache_bytes: memory for keys and values; by default a share of what is free.
        context: tokens of prompt and answer together; by default what the base says.
    """

    def __init__(
        self,
        bank: Bank,
        models: dict[str, ServedModel],
        max_batch: int = 32,
        *,
        max_waiting: int = 256,
        cache_bytes: int | None = None,
        context: int | None = None,
    ):
        self.bank, self.models = bank, dict(models)
        self.context = context or getattr(bank.config, "max_position_embeddings", None) or CONTEXT
        budget = _free_memory(bank.device) if cache_bytes is None else cache_bytes
        self.scheduler = Scheduler(runner_of(bank, max_batch, budget), max_batch, max_waiting)
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._one_at_a_time = threading.Lock()

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> Engine:
        """Run on a thread of its own; harmless when it already does."""
        if not self.alive:
            self._stopping = False
            self._thread = threading.Thread(target=self._live, name="rung-engine", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread after the step it is in; whatever is not finished fails."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.scheduler.fail_all(EngineStopped("the engine has stopped"))

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _live(self) -> None:
        try:
            while not self._stopping:
                if not self._guarded_step():
                    self._wake.wait()
                    self._wake.clear()
        finally:  # however it ends, nobody is left waiting
            self._stopping = True
            self.scheduler.fail_all(EngineStopped("the engine has stopped"))

    # --- asking ---------------------------------------------------------------------------------

    def model(self, name: str) -> ServedModel:
        """The served model of that name. Raises ModelNotFound naming the nearest."""
        if name not in self.models:
            raise ModelNotFound(f"no model '{name}' is served{nearest(name, self.models)}")
        return self.models[name]

    def submit(self, request: GenerationRequest, listener: Listener | None = None) -> Generation:
        """Queue a request; from any thread.

        Raises:
            ModelNotFound: for a name that is not served.
            ConfigError: for an empty prompt or a token id outside the vocabulary.
            ContextExceeded: when prompt and context leave no room, naming both counts.
            Busy: when the queue is full. EngineStopped: when the engine's thread has ended.
        """
        return self.submit_all([request], listener)[0]

    def submit_all(
        self,
        requests: Iterable[GenerationRequest],
        listener: Listener | None = None,
        *,
        patient: bool = False,
    ) -> list[Generation]:
        """Queue all of these requests or, where one of them raises (as `submit`), none.

        Args:
            patient: let the queue grow beyond its limit.
        """
        if self._stopping:
            raise EngineStopped("the engine does not run")
        prepared = [self._prepare(r, listener) for r in requests]
        self.scheduler.submit(prepared, patient)
        self._wake.set()
        return [p.generation for p in prepared]

    def generate(self, requests: Iterable[GenerationRequest]) -> list[Completion]:
        """Answer all of these and wait; any number, in one batch as far as it goes.

        Raises:
            RungError: as `submit`, or the first failure.
        """
        generations = self.submit_all(requests, patient=True)
        while not self.alive and not all(g.done for g in generations):
            self._guarded_step()
        return [g.result() for g in generations]

    def room(self, name: str, prompt: int) -> int:
        """How many tokens a model can draw behind a prompt of so many."""
        return self.context - self._front(self.model(name).slot) - prompt

    def _prepare(self, request: GenerationRequest, listener: Listener | None) -> Running:
        model = self.model(request.model)
        vocabulary = self.bank.model.get_input_embeddings().weight.shape[0]
        if not request.ids:
            raise ConfigError("the prompt is empty")
        if not 0 <= min(request.ids) <= max(request.ids) < vocabulary:
            raise ConfigError(f"the prompt holds a token id outside 0 to {vocabulary - 1}")
        front = self._front(model.slot)
        room = self.context - front - len(request.ids)
        if room < 1:
            taken = f", {front} of them taken by its adapter" if front else ""
            raise ContextExceeded(
                f"the prompt has {len(request.ids)} tokens, which leaves no room for an answer: the "
                f"context of '{model.name}' is {self.context} tokens{taken}"
            )
        most = min(request.decoding.max_tokens, room)
        if most < 1:
            raise ConfigError(f"max_tokens is {most}, must be at least 1")
        return Running(Generation(request, listener), model, front, most)

    def _front(self, slot: int) -> int:
        """Entries that an adapter puts in front of every prompt."""
        adapter = self.bank.adapters.get(slot)
        if adapter is None:
            return 0
        virtual = 0 if adapter.embeddings is None else len(adapter.embeddings)
        return virtual + (0 if adapter.keys_values is None else adapter.keys_values.shape[2])

    # --- a step ---------------------------------------------------------------------------------

    def step(self) -> None:
        """One round: let go, admit, read the new prompts, then one token for everybody."""
        self.scheduler.sweep()
        if joined := self.scheduler.admit():
            self._advance(joined, self._prefill(joined))
        self.scheduler.make_room()
        if running := list(self.scheduler.running):
            ids, slots = [r.ids[-1] for r in running], [r.slot for r in running]
            self._advance(running, self.scheduler.runner.decode(ids, slots))

    def _guarded_step(self) -> bool:
        """A step whose faults end what is in flight and nothing more; False when nothing is left."""
        with self._one_at_a_time, torch.inference_mode():
            try:
                self.step()
            except Exception as fault:
                log.exception("a step of the engine failed")
                self.scheduler.fail_running(fault)
        return self.scheduler.busy

    def _prefill(self, joined: Sequence[Running]) -> Tensor:
        """Logits (N, V) of what follows each prompt.

        A prompt whose values overflow spoils its neighbours in the trie, so where that happens each
        is read again alone, and only the one at fault fails.
        """
        runner = self.scheduler.runner
        logits = runner.prefill([r.lane for r in joined], [r.sequence for r in joined])
        if len(joined) > 1:
            for i in (~_finite(logits)).nonzero()[:, 0].tolist():
                logits[i] = runner.prefill([joined[i].lane], [joined[i].sequence])[0]
        return logits

    def _advance(self, requests: Sequence[Running], logits: Tensor) -> None:
        """Draw a token for each, hand it on, and free the lanes of those who are done."""
        finite = _finite(logits).tolist()
        ids = draw(logits, [r.draw for r in requests]).tolist()
        for request, token, sound in zip(requests, ids, finite, strict=True):
            if not sound:
                self.scheduler.release(request)
                name = request.generation.request.model
                request.fail(EngineFault(f"the model '{name}' computed values that are not finite"))
            elif request.accept(token):
                self.scheduler.release(request)


def _finite(logits: Tensor) -> Tensor:
    """(N, V) -> (N,): whether a row has a largest value at all."""
    return logits.amax(-1).isfinite()


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * MEMORY)
    import psutil

    return int(psutil.virtual_memory().available * MEMORY)
