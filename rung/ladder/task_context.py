"""One task, opened once: data, splits, rows and base that all rungs of a climb share.

The test rows are kept apart from what rungs see: `opened` has none, and `answer_test` counts who asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rung.config import knobs_of, resolve
from rung.data import Splits
from rung.data.knobs import DataKnobs
from rung.data.split import place
from rung.engine import Engine, GenerationRequest, ServedModel
from rung.evals.measure import Measured, measure
from rung.evals.predict import Answers, predict
from rung.evals.tasks import detect
from rung.forward.adapter import Adapter
from rung.forward.classifier import Asked
from rung.ladder import fitness
from rung.ladder.bar import Bar
from rung.ladder.judge import settle_task
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.meter import now
from rung.ladder.rungs import Rung, own_settings
from rung.store.records import DatasetRecord
from rung.train import estimate
from rung.train.knobs import RunKnobs, TrainKnobs
from rung.train.plan import Plan
from rung.train.prepare import Prepared, open_base, read
from rung.train.keeping import data_record
from rung.types import Example, Task

MAX_TOKENS = 2048  # of a micro-batch, so that every rung's memory is measured alike
TIMED = 7  # single requests that are timed, after a first one that warms up
LONG = 2.0  # seconds: what all of them may take
ANSWERED = 24  # rows that are answered together to tell what all take
REPLY_TOKENS = 64  # of a timed answer at most, where replies of the data are longer


Ask = Callable[[Example], tuple[float, int]]  # seconds and tokens of a request


@dataclass(frozen=True)
class Served:
    """What one request takes, alone, as served."""

    seconds: float
    tokens: float


@dataclass
class TaskContext:
    """What the rungs of one climb share.

    Attributes:
        given: the user's settings by knob, climb's own left out.
        knobs: of the climb. task: with its metric. bar: None climbs to the best.
        opened: the plain base over training and validation rows; others by their settings.
        test: the rows that nobody has seen yet.
        touched: who was measured on the test rows.
    """

    given: dict[str, Any]
    knobs: ClimbKnobs
    task: Task
    bar: Bar | None
    opened: Prepared
    test: tuple[Example, ...]
    stage: Callable[[str], None]
    touched: list[str] = field(default_factory=list)
    _others: dict[tuple, Prepared] = field(default_factory=dict)

    @classmethod
    def open(
        cls, given: Mapping[str, Any], knobs: ClimbKnobs, stage: Callable[[str], None]
    ) -> TaskContext:
        """Read the data, settle what the task is, refuse what cannot be judged, then load the base.

        Raises:
            RungError: for data, bar or base that a climb cannot stand on.
        """
        bar = None if knobs.bar is None else Bar.parse(knobs.bar)
        run, data, _ = resolve([RunKnobs, DataKnobs, TrainKnobs], shared_settings(given))
        dataset, splits = read(data, stage)
        task = settle_task(detect(splits.train), knobs, bar)
        fitness.check(task, splits)
        device = estimate.device(run.device)
        run = dataclasses.replace(run, device=device, dtype=estimate.dtype(run.dtype, device))
        kept = Splits(splits.train, some(splits.validation, knobs.validation_rows))
        opened = open_base(run, dataset, kept, stage)
        settled = {**given, "device": run.device, "dtype": run.dtype}
        settled.setdefault("max_tokens", MAX_TOKENS)
        return cls(settled, knobs, task, bar, opened, splits.test, stage)

    @property
    def data(self) -> DatasetRecord:
        return data_record(self.opened.dataset)

    @property
    def validation(self) -> tuple[Example, ...]:
        return self.opened.splits.validation

    def plan(self, name: str, rung: Rung, **settings: Any) -> Plan:
        """A rung's configuration: its own settings over the user's, `settings` over both."""
        own = own_settings(rung.method, [RunKnobs, DataKnobs, TrainKnobs], self.given)
        return Plan.of(name, own, rung.settings, settings, {"method": rung.method.name})

    def opened_for(self, plan: Plan) -> Prepared:
        """Data and base of a plan's settings: the plain ones, or a base loaded in another way."""
        key = _way(plan.run)
        if key == _way(self.plain):
            return self.opened
        if key not in self._others:
            opened = self.opened
            self._others = {key: open_base(plan.run, opened.dataset, opened.splits, self.stage)}
        return self._others[key]

    @property
    def plain(self) -> RunKnobs:
        """The base as the user asked for it."""
        return resolve([RunKnobs, DataKnobs, TrainKnobs], shared_settings(self.given))[0]

    def close_others(self) -> None:
        """Forget bases that only one rung needed."""
        self._others = {}

    # --- asking -------------------------------------------------------------------------------

    @contextmanager
    def served(self, opened: Prepared, adapter: Adapter | None, name: str) -> Iterator[ServedModel]:
        """An adapter (or the bare base) as a model that can be asked, for as long as it is needed."""
        slot = opened.bank.add(adapter) if adapter is not None else -1
        try:
            yield ServedModel(
                name, slot, opened.template,
                conversation=adapter.conversation if adapter else None,
                classifier=adapter.classifier if adapter else None,
                remote=adapter.remote if adapter else None,
            )  # fmt: skip
        finally:
            opened.bank.remove(slot)

    def answer(
        self, opened: Prepared, model: ServedModel, examples: Sequence[Example]
    ) -> tuple[Answers, Measured]:
        """What a model answers, and what that is worth."""
        answers = predict(opened.bank, model, examples, self.task)
        return answers, measure(answers, examples, self.task)

    def answer_test(self, opened: Prepared, model: ServedModel) -> tuple[Answers, Measured]:
        """The same on the test rows; who asked is kept."""
        self.touched.append(model.name)
        return self.answer(opened, model, self.test)

    def time_requests(self, opened: Prepared, model: ServedModel) -> Served:
        """Seconds (median) and tokens (mean) of single requests, one after another, as a server that
        has answered others before would take for them."""
        conversations = [e for e in self.validation if e.messages][: TIMED + 1]
        if not conversations:
            return Served(0.0, 0.0)
        way = self._classify if model.classifier is not None else self._generate
        ask = way(opened, model)
        found, began = [], now()
        for example in conversations:
            found.append(ask(example))
            if now() - began > LONG:
                break
        found = found[1:] or found
        tokens = sum(t for _, t in found) / len(found)
        return Served(median(s for s, _ in found), tokens)

    def time_answers(self, opened: Prepared, model: ServedModel) -> float:
        """Seconds that all validation rows take together, from some of them."""
        some_rows = self.validation[:ANSWERED]
        began = now()
        self.answer(opened, model, some_rows)
        return (now() - began) * len(self.validation) / max(len(some_rows), 1)

    def _classify(self, opened: Prepared, model: ServedModel) -> Ask:
        classifier = model.classifier
        assert classifier is not None

        def ask(example: Example) -> tuple[float, int]:
            messages = example.messages[:-1]
            text = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
            began = now()
            ids = model.prompt(messages)
            classifier.probabilities(opened.bank, [Asked(ids, text)])
            return now() - began, len(ids)

        return ask

    def _generate(self, opened: Prepared, model: ServedModel) -> Ask:
        """Asks one engine, which arranges an adapter and reads a shared beginning once."""
        engine = Engine(opened.bank, {model.name: model}, max_batch=1, cache_bytes=1 << 28)
        own = model.conversation.max_tokens if model.conversation else None

        def ask(example: Example) -> tuple[float, int]:
            reply = opened.template.tokenizer.encode(
                example.messages[-1]["content"], add_special_tokens=False
            )
            most = own or min(REPLY_TOKENS, len(reply) + 1)
            decoding = dataclasses.replace(model.decoding, max_tokens=most)
            began = now()
            ids = model.prompt(example.messages[:-1])
            request = GenerationRequest(model.name, ids, decoding, messages=example.messages[:-1])
            done = engine.generate([request], remember=True)[0]
            return now() - began, len(ids) + done.completion_tokens

        return ask


def shared_settings(
    given: Mapping[str, Any], classes: Sequence[type] = (RunKnobs, DataKnobs, TrainKnobs)
) -> dict[str, Any]:
    """What of the user's settings is a knob of some classes: by default, what is no method's own."""
    known = {k.name for cls in classes for k in knobs_of(cls)}
    return {name: value for name, value in given.items() if name in known}


def _way(run: RunKnobs) -> tuple:
    """What makes one loaded base differ from another."""
    about = {"method", "objective", "parent", "push_to_hub"}
    fields = dataclasses.asdict(run)
    return tuple(sorted((k, str(v)) for k, v in fields.items() if k not in about))


def some(examples: Sequence[Example], most: int) -> tuple[Example, ...]:
    """At most so many, evenly by content, in the order of the source."""
    if len(examples) <= most:
        return tuple(examples)
    kept = set(sorted(range(len(examples)), key=lambda i: place(examples[i], 1))[:most])
    return tuple(e for i, e in enumerate(examples) if i in kept)
