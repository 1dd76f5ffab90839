"""Engine: batched generation, classification and embedding for many models over one bank.

Requests join and leave between steps (continuous batching, as in Orca, OSDI 2022). `start` runs the
steps on a thread; without it `generate` runs them on the caller's, so that a training loop can draw
rollouts from the weights it trains.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from rung import process
from rung.engine.bank_calls import BankCalls
from rung.engine.constraint import Constraint
from rung.engine.queues.base import AnyQueue
from rung.engine.queues.classify import ClassifyQueue
from rung.engine.queues.embed import EmbedQueue
from rung.engine.queues.generate import GenerateQueue
from rung.engine.queues.map import MapQueue
from rung.engine.queues.rank import RankQueue
from rung.engine.queues.remote import RemoteQueue
from rung.engine.queues.score import ScoreQueue
from rung.engine.registry import Registry, Source
from rung.engine.request import (
    Completion,
    EmbeddingRequest,
    EngineStopped,
    Generation,
    GenerationRequest,
    Listener,
    Request,
    ScoreRequest,
)
from rung.engine.runner import runner_of
from rung.engine.scheduler import Scheduler
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError, Interrupted, RungError
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.types import Prompt

IDLE_SECONDS = 5.0  # seconds without work after which memory is given back
POLL_SECONDS = 0.05  # seconds between two looks at whether a caller wants to stop waiting
REMOTE_POLL_SECONDS = 0.002  # seconds between two looks at answers that only an API works on
MEMORY_SHARE = 0.4  # share of the free memory that keys and values may take
T = TypeVar("T")


class Engine:
    """Engine that serves the models of one bank, batching whatever is asked of them.

    Args:
        bank: the base with its resident adapters.
        models: who can be asked, by name.
        max_batch: maximum number of requests that generate at once.
        max_waiting: maximum number of requests that wait in a queue; beyond it `submit` raises Busy.
        memory: bytes for keys and values, the prefix cache included; by default a share of what is
            free.
        context: tokens of prompt and answer together; by default what the base says.
        max_resident: maximum number of adapters in the bank, of those that `load` was given; None: all.

    Attributes:
        models: who can be asked, by name; changed by `load` and `unload`.
        idle_seconds: seconds without work after which the thread gives memory back.
        queues: one for each kind of answer, asked in this order which of them takes a request.
    """

    def __init__(
        self,
        bank: Bank,
        models: dict[str, ServedModel],
        max_batch: int = 32,
        *,
        max_waiting: int = 256,
        memory: int | None = None,
        context: int | None = None,
        max_resident: int | None = None,
    ):
        self.bank = bank
        self.context = context or bank.context
        budget = _free_memory(bank.device) if memory is None else memory
        self.scheduler = Scheduler(runner_of(bank, max_batch, budget), max_batch, max_waiting)
        self.registry = registry = Registry(bank, models, self.context, max_resident)
        registry.on_forget = self.scheduler.runner.forget
        self.models = registry.models
        generate = GenerateQueue(bank, self.scheduler, registry)
        self.queues: tuple[AnyQueue, ...] = (
            EmbedQueue(registry, self.scheduler.running_slots, max_waiting),
            ScoreQueue(registry, self.scheduler.running_slots, max_waiting),
            MapQueue(registry, self.scheduler.running_slots, max_waiting),
            ClassifyQueue(registry, self.scheduler.running_slots, max_waiting),
            RankQueue(registry, generate),
            generate,
            RemoteQueue(max_waiting),  # last: what an API is asked cannot be taken back
        )
        self._calls = BankCalls()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopping = False
        self._starting = threading.Lock()
        self._one_at_a_time = threading.RLock()
        self.idle_seconds = IDLE_SECONDS

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> Engine:
        """Run on a thread of its own; harmless when it already does."""
        with self._starting:
            if self.alive:
                return self
            self._stopping = False
            arranged = None if self.scheduler.busy else self._calls.add(self.scheduler.runner.arrange)
            process.release()
            self._thread = threading.Thread(target=self._live, name="rung-engine", daemon=True)
            self._thread.start()
            atexit.register(self.stop)  # a thread that computes while Python ends aborts the process
        if arranged is not None:
            arranged.result()
        return self

    def arrange(self) -> None:
        """Prepare the base for decoding fast, as `start` does, where no thread runs.

        Some weights are copied: for bases whose own weights do not change any more.
        """
        self.between(self.scheduler.runner.arrange)

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
                if not self.step():
                    if not self._wake.wait(self.idle_seconds):
                        self.between(self.scheduler.give_back)
                        self._wake.wait()
                    self._wake.clear()
        finally:  # however it ends, nobody is left waiting
            self._stopping = True
            self._fail_all()

    def _fail_all(self) -> None:
        fault = EngineStopped("the engine has stopped")
        for fail_all in (*(queue.fail_all for queue in self.queues), self._calls.fail_all):
            fail_all(fault)

    def step(self) -> bool:
        """Let every queue do a bounded piece of work -> whether more is to be done here."""
        with self._one_at_a_time, torch.inference_mode():
            self._calls.run_one()
            busy = [queue.step(self.bank) for queue in self.queues]
            self.registry.free_retired(self._slots)
        if any(busy) or len(self._calls):
            return True
        if not self.alive:
            self.between(self.scheduler.give_back)
        return False

    def _slots(self) -> set[int]:
        """Return the slots that queued requests need."""
        return set().union(*(queue.slots() for queue in self.queues))

    # --- asking ---------------------------------------------------------------------------------

    def model(self, name: str) -> ServedModel:
        """Return the served model of that name. Raises ModelNotFound naming the nearest."""
        return self.registry.model(name)

    def submit(self, request: Request, listener: Listener | None = None) -> Generation:
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
        requests: Iterable[Request],
        listener: Listener | None = None,
        *,
        patient: bool = False,
        throughput: bool = False,
    ) -> list[Generation]:
        """Queue all of these requests or, where one of them raises (as `submit`), none.

        Args:
            patient: let the queue grow beyond its limit.
            throughput: nobody waits for single tokens; see `Generation`.
        """
        if self._stopping:
            raise EngineStopped("the engine does not run")
        asked = list(requests)
        for name in {r.model for r in asked}:
            self.registry.hold(self.registry.model(name).slot)
        with self.registry.lock:  # until they are queued no model of theirs is taken away
            generations = [Generation(r, listener, throughput) for r in asked]
            self._queue(generations, patient)
        self._wake.set()
        return generations

    def _queue(self, generations: Sequence[Generation], patient: bool) -> None:
        batches: dict[AnyQueue, list] = {queue: [] for queue in self.queues}
        for generation in generations:
            request = generation.request
            model = self.registry.asked(request)
            queue = next(q for q in self.queues if q.accepts(request, model))
            batches[queue].append(queue.prepare(generation, model))
        try:
            for queue, batch in batches.items():
                if batch:
                    queue.add(batch, patient)
        except RungError:  # a queue is full: what others have taken is not answered either
            for generation in generations:
                generation.cancel()
            raise

    def generate(
        self,
        requests: Iterable[Request],
        *,
        stopping: Callable[[], bool] | None = None,
        progress: Callable[[int], None] | None = None,
        throughput: bool = True,
        remember: bool = False,
    ) -> list[Completion]:
        """Answer all of these and wait; any number, in one batch as far as it goes.

        Without the engine's thread the steps run here, and nothing that was read is remembered
        afterwards, since weights may change between two calls.

        Args:
            stopping: asked between steps whether to give up.
            progress: told how many more requests have ended.
            throughput: prefill in large chunks, like beginnings side by side; False orders and
                prefills them as if each client waited for every token.
            remember: keep the prefix cache all the same: no weights change before the next call.

        Raises:
            Interrupted: when `stopping` says so. RungError: as `submit`, or the first failure.
        """
        asked = list(requests)
        order = sorted(range(len(asked)), key=lambda i: asked[i].prompt.ids if throughput else ())
        sent = self.submit_all([asked[i] for i in order], patient=True, throughput=throughput)
        if throughput and not self.alive:
            self.between(self.scheduler.reserve_waiting)  # the KV cache then grows once
        self._await(sent, stopping, progress)
        if not self.alive and not remember:
            self.scheduler.runner.forget()
        generations = dict(zip(order, sent, strict=True))
        return [generations[i].result() for i in range(len(asked))]

    def _await(
        self,
        generations: Sequence[Generation],
        stopping: Callable[[], bool] | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Wait until all have ended, stepping here where no thread does."""
        left = list(generations)
        while left:
            if stopping is not None and stopping():
                for generation in left:
                    generation.cancel()
                if not self.alive:
                    self.step()  # frees their lanes
                raise Interrupted
            if self.alive:
                left[-1].wait(POLL_SECONDS if stopping or progress else None)
            elif not self.step():
                time.sleep(REMOTE_POLL_SECONDS)
            still = [g for g in left if not g.done]
            if progress is not None and len(still) < len(left):
                progress(len(left) - len(still))
            left = still

    def room(self, name: str, prompt: int) -> int:
        """Count the tokens that a model can draw behind a prompt of so many."""
        return self.context - self.registry.hold(self.model(name).slot) - prompt

    def constraint(self, name: str, kind: str, value: Any = None) -> Constraint:
        """Compile a grammar for answers of a model, as `Grammars.compile`; from any thread.

        Calls of tools are held to the format of the base's own chat template, where it has one.

        Raises:
            ConstraintError: naming what is wrong with it.
        """
        if kind == "tool_calls" and (form := self.model(name).template.calls) is not None:
            value = form.grammar(value)
        return self.registry.grammars(name).compile(kind, value)

    def embed(self, name: str, texts: Sequence[tuple[int, ...] | Prompt]) -> Tensor:
        """Embed texts, or messages for towers: (N, d) on the CPU, each of length 1.

        From any thread; waits. Long lists are done in batches, between which others are served.

        Raises:
            RungError: as `submit`. EngineFault: when values are not finite.
        """
        prompts = [one if isinstance(one, Prompt) else Prompt(tuple(one)) for one in texts]
        requests = [EmbeddingRequest(name, prompt) for prompt in prompts]
        found = self.generate(requests, remember=True)
        return torch.stack([one.embedding for one in found if one.embedding is not None])

    def classify(self, name: str, prompts: Sequence[Prompt]) -> list[tuple[tuple[str, float], ...]]:
        """Give each prompt every label with its log-probability, likeliest first; waits.

        Raises:
            ConfigError: when the model generates. RungError: as `submit`.
        """
        if not self.model(name).labels:
            raise ConfigError(f"'{name}' is no classifier")
        return [one.labels for one in self.generate(GenerationRequest(name, p) for p in prompts)]

    def score(self, name: str, texts: Sequence[Prompt]) -> list[float]:
        """Give each text its reward by a reward model; from any thread; waits.

        Args:
            texts: as `ServedModel.judged` renders them.

        Raises:
            ConfigError: when it is no reward model. RungError: as `submit`.
        """
        found = self.generate((ScoreRequest(name, text) for text in texts), remember=True)
        return [one.reward for one in found if one.reward is not None]

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
        """Load a model under a name that is served. Raises ModelNotFound where it is not."""
        self.model(model.name)
        return self.load(model, adapter)

    def unload(self, name: str) -> None:
        """Stop serving a model; who asked before is still answered. Raises ModelNotFound."""
        self.between(lambda: self.registry.unload(name))

    def between(self, work: Callable[[], T]) -> T:
        """Call something that needs the bank to itself, between two steps, and wait for it.

        From any thread, but not from a listener. Raises what `work` raises.
        """
        if not self.alive or threading.current_thread() is self._thread:
            with self._one_at_a_time, torch.inference_mode():
                return work()
        future = self._calls.add(work)
        self._wake.set()
        if self._stopping:
            self._calls.fail_all(EngineStopped("the engine has stopped"))
        return future.result()


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * MEMORY_SHARE)
    import psutil

    return int(psutil.virtual_memory().available * MEMORY_SHARE)
