"""Models that answer with a label: asked together, and answered without generating."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from rung.engine.request import Completion, EngineFault, Generation, Token
from rung.engine.served_model import ServedModel
from rung.errors import Busy
from rung.forward.bank import Bank
from rung.forward.classifier import Classifier

log = logging.getLogger("rung.engine")

TOGETHER = 32  # prompts in one pass
LEAST = 1e-30  # probability; what rounds to 0 still has a log-probability


class ClassifyQueue:
    """The queue of requests to classifiers.

    Args:
        most: requests that wait at most.
    """

    def __init__(self, most: int):
        self.most = most
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Generation, ServedModel]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, asked: list[tuple[Generation, ServedModel]], patient: bool = False) -> None:
        """Queue all or none; raises Busy where they do not fit."""
        with self._lock:
            if not patient and len(self._waiting) + len(asked) > self.most:
                raise Busy(f"{len(self._waiting)} requests are waiting: try again later")
            self._waiting.extend(asked)

    def step(self, bank: Bank) -> None:
        """Answer some of those who wait for the model that is asked first."""
        with self._lock:
            if not self._waiting:
                return
            model = self._waiting[0][1]
            mine = [w for w in self._waiting if w[1] is model][:TOGETHER]
            taken = set(map(id, mine))
            self._waiting = deque(w for w in self._waiting if id(w) not in taken)
        self._answer(bank, model, [g for g, _ in mine if not _dropped(g)])

    def _answer(self, bank: Bank, model: ServedModel, generations: list[Generation]) -> None:
        if not generations:
            return
        assert model.classifier is not None
        try:
            probabilities = model.classifier.probabilities(
                bank, [g.request.prompt for g in generations]
            )
        except Exception as fault:
            log.exception("the classifier of '%s' failed", model.name)
            if len(generations) > 1:  # whoever is at fault fails alone
                for generation in generations:
                    self._answer(bank, model, [generation])
            else:
                generations[0].emit(EngineFault(f"the classifier of '{model.name}' failed ({fault})"))
            return
        for generation, row in zip(generations, probabilities, strict=True):
            _tell(generation, model, model.classifier, row)

    def fail_all(self, fault: Exception) -> None:
        """The engine stops."""
        with self._lock:
            gone, self._waiting = list(self._waiting), deque()
        for generation, _ in gone:
            generation.emit(fault)


def _dropped(generation: Generation) -> bool:
    if generation.cancelled:
        generation.emit(Completion("", (), "cancelled", len(generation.request.prompt.ids)))
    return generation.cancelled


def _tell(generation: Generation, model: ServedModel, classifier: Classifier, row: Tensor) -> None:
    numbers = row.tolist()
    if not all(map(math.isfinite, numbers)):
        generation.emit(EngineFault(f"the model '{model.name}' computed values that are not finite"))
        return
    labels = ranked(classifier.labels, numbers)
    best, logprob = labels[0]
    ids = tuple(model.template.encoder.encode(best)[0])
    request = generation.request
    token = Token(ids[0] if ids else 0, best, logprob if request.logprobs is not None else None)
    generation.emit(token)
    told = () if request.logprobs is None else (token,)
    generation.emit(Completion(best, ids, "stop", len(request.prompt.ids), told, labels=labels))


def ranked(labels: Sequence[str], probabilities: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """(label, log-probability), likeliest first."""
    pairs = [(label, math.log(max(p, LEAST))) for label, p in zip(labels, probabilities, strict=True)]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
