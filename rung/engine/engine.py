"""The engine: many requests for many models over one bank, one token each per step.

Requests join and leave between steps (continuous batching, as in Orca, OSDI 2022). `start` runs the
steps on a thread; without it `generate` runs them on the caller's, so that a training loop can draw
rollouts from the weights it trains.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from rung import process
from rung.engine.admission import prepare
from rung.engine.bank_calls import BankCalls
from rung.engine.constraint import Constraint
from rung.engine.core import EngineCore
from rung.engine.embeddings import batches, pooled
from rung.engine.queues.classify import ClassifyQueue
from rung.engine.queues.remote import RemoteQueue
from rung.engine.registry import Registry
from rung.engine.request import (
    Completion,
    EngineFault,
    EngineStopped,
    Generation,
    GenerationRequest,
    Listener,
)
from rung.engine.residency import Source
from rung.engine.runner import runner_of
from rung.engine.scheduler import Scheduler
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.types import Prompt

log = logging.getLogger("rung.engine")

CONTEXT = 2048  # tokens, for bases that do not say
IDLE = 5.0  # seconds without work after which memory is given back
MEMORY = 0.4  # share of the free memory that keys and values may take
T = TypeVar("T")


class Engine:
    """Batched generation.

    Args:
        bank: the base with its resident adapters.
        models: who can be asked, by name.
        max_batch: requests that run at once.
        max_waiting: requests that wait at most; beyond it `submit` raises Busy.
        memory: bytes for keys and values, those of texts read before included; by default a share of
            what is free. `cache_bytes` is its older name.
        context: tokens of prompt and answer together; by default what the base says.
        max_resident: adapters in the bank at most, of those that `load` was given; None: all.

    Attributes:
        models: who can be asked, by name; changed by `load` and `unload`.
    """

    def __init__(
        self,
        bank: Bank,
        models: dict[str, ServedModel],
        max_batch: int = 32,
        *,
        max_waiting: int = 256,
        memory: int | None = None,
        cache_bytes: int | None = None,
        context: int | None = None,
        max_resident: int | None = None,
    ):
        self.bank = bank
        self.context = context or getattr(bank.config, "max_position_embeddings", None) or CONTEXT
        given = memory if memory is not None else cache_bytes
        budget = _free_memory(bank.device) if given is None else given
        self.scheduler = Scheduler(runner_of(bank, max_batch, budget), max_batch, max_waiting)
        self.registry = Registry(bank, models, max_resident)
        self.registry.on_forget = self.scheduler.runner.forget
        self.models = self.registry.models
        self._labelling = ClassifyQueue(max_waiting)
        self._passing = RemoteQueue(max_waiting)
        self._errands = BankCalls()
        self._step = EngineCore(bank, self.scheduler, self.registry)
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._one_at_a_time = threading.RLock()

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> Engine:
        """Run on a thread of its own; harmless when it already does."""
        if not self.alive:
            self._stopping = False
            arranged = None if self.scheduler.busy else self._errands.add(self.scheduler.runner.arrange)
            process.release()
            self._thread = threading.Thread(target=self._live, name="rung-engine", daemon=True)
            self._thread.start()
            atexit.register(self.stop)  # a thread that computes while Python ends aborts the process
            if arranged is not None:
                arranged.result()
        return self

    def stop(self) -> None:
        """End the thread after the step it is in; whatever is not finished fails."""
        atexit.unregister(self.stop)
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._fail_all()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _live(self) -> None:
        try:
            while not self._stopping:
                if not self._guarded_step():
                    if not self._wake.wait(IDLE):
                        self.between(self.scheduler.rest)
                        self._wake.wait()
                    self._wake.clear()
        finally:  # however it ends, nobody is left waiting
            self._stopping = True
            self._fail_all()

    def _fail_all(self) -> None:
        fault = EngineStopped("the engine has stopped")
        self.scheduler.fail_all(fault)
        self._labelling.fail_all(fault)
        self._passing.fail_all()
        self._errands.fail_all(fault)

    # --- asking ---------------------------------------------------------------------------------

    def model(self, name: str) -> ServedModel:
        """The served model of that name. Raises ModelNotFound naming the nearest."""
        return self.registry.model(name)

    def submit(self, request: GenerationRequest, listener: Listener | None = None) -> Generation:
        """Queue a request; from any thread.

        Raises:
            ModelNotFound: for a name that is not served.
            ConfigError: for an empty prompt, a token id outside the vocabulary, or a seed too large.
            ContextExceeded: when prompt and context leave no room, naming both counts.
            Busy: when the queue is full. EngineStopped: when the engine's thread has ended.
            ArtefactError: when its adapter has to be read from disk and cannot be.
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
        asked = list(requests)
        for name in {r.model for r in asked}:
            self.registry.hold(name)
        with self.registry.lock:  # until they are queued no model of theirs is taken away
            generations = [Generation(r, listener) for r in asked]
            running, labels, passed = [], [], []
            for generation in generations:
                model = self.registry.model(generation.request.model)
                if model.remote is not None:
                    passed.append((generation, model))
                    continue
                one = prepare(generation, model, self.registry, self.context)
                if model.classifier is None:
                    running.append(one)
                else:
                    labels.append((generation, model))
            if passed:
                self._passing.add(passed, patient)
            if labels:
                self._labelling.add(labels, patient)
            self.scheduler.waiting.add(running, patient)
        self._wake.set()
        return generations

    def generate(
        self, requests: Iterable[GenerationRequest], remember: bool = False
    ) -> list[Completion]:
        """Answer all of these and wait; any number, in one batch as far as it goes.

        Without the engine's thread the steps run here, and nothing that was read is remembered
        afterwards, since weights may change between two calls.

        Args:
            remember: what was read all the same: no weights change before the next call.

        Raises:
            RungError: as `submit`, or the first failure.
        """
        generations = self.submit_all(requests, patient=True)
        if not self.alive:
            while not all(g.done for g in generations):
                if not self._guarded_step():
                    time.sleep(0.002)  # what is left was passed on, and is answered elsewhere
            if not remember:
                self.scheduler.runner.forget()
        return [g.result() for g in generations]

    def room(self, name: str, prompt: int) -> int:
        """How many tokens a model can draw behind a prompt of so many."""
        return self.context - self.registry.hold(name) - prompt

    def constraint(self, name: str, kind: str, value: object = None) -> Constraint:
        """A compiled grammar for answers of a model; from any thread.

        Args:
            kind: `json_object`, `json_schema`, `regex` or `choice`.
            value: the schema, the pattern, or the texts; nothing for `json_object`.

        Raises:
            ConstraintError: naming what is wrong with it.
        """
        return self.registry.grammars(name).compile(kind, value)

    def embed(self, name: str, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Vectors of texts: the mean of the final hidden states, of length 1; (N, d) on the CPU.

        From any thread; waits. Long lists are done in pieces, between which others are served.

        Raises:
            RungError: as `submit`. EngineFault: when values are not finite.
        """
        if self.model(name).remote is not None:
            raise ConfigError(f"'{name}' is behind an API, which gives no vectors here: ask a base")
        for ids in texts:
            request = GenerationRequest(name, Prompt(tuple(ids)))
            prepare(Generation(request), self.model(name), self.registry, self.context + 1)
        with self.registry.using(name) as model:
            parts = []
            for some in batches(texts):
                self.between(lambda: self.registry.settle(model.slot, ()))
                parts.append(self.between(partial(pooled, self.bank, model.slot, some)))
        vectors = torch.cat(parts)
        if not bool(vectors.isfinite().all()):
            raise EngineFault(f"the model '{name}' computed values that are not finite")
        return vectors

    def classify(self, name: str, prompts: Sequence[Prompt]) -> list[tuple[tuple[str, float], ...]]:
        """For each prompt every label with its log-probability, likeliest first; waits.

        Raises:
            ConfigError: when the model generates. RungError: as `submit`.
        """
        if self.model(name).classifier is None:
            raise ConfigError(f"'{name}' is no classifier")
        requests = [GenerationRequest(name, prompt) for prompt in prompts]
        return [answer.labels for answer in self.generate(requests)]

    # --- changing who is served -----------------------------------------------------------------

    def load(
        self, model: ServedModel, adapter: Adapter | None = None, source: Source | None = None
    ) -> ServedModel:
        """Serve a model under its name, in place of what had that name; from any thread.

        Who asked before is still answered by the old weights. Returns when the next request is
        answered by the new ones.

        Args:
            adapter: gets a slot of its own. Without it and `source` the model's own slot is served.
            source: reads the adapter when it is first asked for, and again after it had to make room.

        Raises:
            ArtefactError: when the adapter does not fit the base, or its weights are not finite;
                nothing has changed then.
        """
        return self.between(lambda: self.registry.load(model, adapter, source))

    def replace(self, model: ServedModel, adapter: Adapter) -> ServedModel:
        """As `load`, for a name that is served. Raises ModelNotFound where it is not."""
        self.model(model.name)
        return self.load(model, adapter)

    def unload(self, name: str) -> None:
        """Serve a model no more; who asked before is still answered. Raises ModelNotFound."""
        self.between(lambda: self.registry.unload(name))

    def between(self, work: Callable[[], T]) -> T:
        """Do something that needs the bank to itself, between two steps, and wait for it.

        From any thread, but not from a listener. Raises what `work` raises.
        """
        if not self.alive or threading.current_thread() is self._thread:
            with self._one_at_a_time, torch.inference_mode():
                return work()
        future = self._errands.add(work)
        self._wake.set()
        if self._stopping:
            self._errands.fail_all(EngineStopped("the engine has stopped"))
        return future.result()

    # --- a step ---------------------------------------------------------------------------------

    def _guarded_step(self) -> bool:
        """A step whose faults end what is in flight and nothing more; False when nothing is left."""
        with self._one_at_a_time, torch.inference_mode():
            try:
                self.step()
            except Exception as fault:
                log.exception("a step of the engine failed")
                self.scheduler.fail_running(fault)
        busy = self.scheduler.busy or bool(len(self._labelling) or len(self._errands))
        if not busy and not self.alive:
            self.between(self.scheduler.rest)
        return busy

    def step(self) -> None:
        """One round: errands, labels, then a token for everybody who generates."""
        self._errands.run_one()
        self._labelling.step(self.bank)
        self._step()


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * MEMORY)
    import psutil

    return int(psutil.virtual_memory().available * MEMORY)
