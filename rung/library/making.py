"""Making a model from a description: rows are written, split and learnt, and the gain is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rung import bases, methods
from rung.data import load, split
from rung.engine import Engine, GenerationRequest
from rung.errors import ConfigError
from rung.evals.reply_loss import LossChange, change, per_token, reply_losses, with_system
from rung.library.evaluation import Evaluation, evaluate
from rung.library.knobs import EvalKnobs, LoadKnobs
from rung.models import load_engine
from rung.synthesis import writer
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.pipeline import Made, Watcher, synthesise
from rung.synthesis.terms import Part
from rung.train.job import tune
from rung.train.observers import Observer, Outcome
from rung.train.plan import Plan
from rung.types import Example

# Shares held out: with few rows a tenth would be too few to tell anything by.
SHARES = {"validation": 0.15, "test": 0.25}
SHOWN = 3  # prompts that are answered side by side
GOLD = "{provenance[gold]}"  # what retrieval is measured by
READS = "documents"  # the knob of methods that answer from documents


@dataclass(kw_only=True)
class Finished:
    """What was made of a description.

    Attributes:
        system: system message that suits the base best on validation rows; None: none does.
        system_change: what it changes for the base on test rows. change: what the tuning changes.
        answers: by prompt of the test part, then by column: base, base with the system message, model.
        beside: the model beside one that reads the documents, where there are any.
    """

    data: Made
    rows: Path
    outcome: Outcome
    system: str | None
    system_change: LossChange | None
    change: LossChange
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    beside: Evaluation | None = None
    readers: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Request:
    """What is to be made: a model of a name, from a description; `settings` are those of its tuning."""

    name: str
    description: str
    knobs: SynthKnobs
    settings: Mapping[str, Any]
    out: Path
    command: str = ""
    replace: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """Settings of the data, under those that the user gave."""
        gold = {"gold": GOLD} if self.knobs.documents else {}
        return {**SHARES, **gold, "data": str(self.out)}

    def plan(self, name: str, **settings: Any) -> Plan:
        """The plan of a tuning on the rows; raises ConfigError."""
        return Plan.of(name, {**self.data, **self.settings, **settings}, {"data": str(self.out)})


def make(
    request: Request, watcher: Watcher | None = None, observer: Observer | None = None
) -> Finished:
    """Write rows, tune a model on them, and measure what it gained.

    Raises:
        ConfigError: for settings that do not fit, licences that stand against it, or too few rows.
        Interrupted: with what to do; the same call goes on.
    """
    return learnt(request, written(request, watcher), observer)


def written(request: Request, watcher: Watcher | None = None) -> Made:
    """Write the rows into `request.out`. Raises as `make`."""
    plan = request.plan(request.name)  # a wrong setting is told before anything is written
    known = bases.resolve(plan.run.base)
    base = Part("base", known.name, known.licence, known.licence_class)
    writer.check(request.out, replace=True)
    made = synthesise(request.description, request.knobs, watcher, base)
    assert made is not None  # no plan to edit was asked for
    if request.out.exists() and not request.replace and request.out.read_text() != writer.text_of(made):
        raise ConfigError(f"{request.out} holds other rows: say --replace, or choose another --out")
    writer.write(made, request.out, request.description, request.command)
    return made


def learnt(request: Request, rows: Made, observer: Observer | None = None) -> Finished:
    """Tune a model on rows that were written, and measure what it gained. Raises as `make`."""
    outcome = tune(request.plan(request.name), observer, replace=request.replace)
    finished = _measured(request, rows, outcome)
    if request.knobs.documents:
        _beside(request, finished, observer)
    return finished


def _measured(request: Request, rows: Made, outcome: Outcome) -> Finished:
    """Base and model on the held-out rows."""
    knobs = request.plan(request.name).data
    parts = dict(split(load(knobs), knobs))
    run = outcome.plan.run  # whose device and precision are settled
    engine = load_engine([request.name], dtype=run.dtype, device=run.device)
    bare = next(name for name, model in engine.models.items() if model.slot == -1)
    test, validation = list(parts["test"]), list(parts["validation"])
    system = _system(engine, bare, request.description, validation)
    before = reply_losses(engine.bank, engine.model(bare), test)
    told = None if system is None else reply_losses(engine.bank, engine.model(bare), test, system)
    after = reply_losses(engine.bank, engine.model(request.name), test)
    return Finished(
        data=rows, rows=request.out, outcome=outcome, system=system,
        system_change=None if told is None else change(before, told),
        change=change(before, after),
        answers=_side_by_side(engine, bare, request.name, system, test[:SHOWN]),
    )  # fmt: skip


def _system(engine: Engine, bare: str, description: str, rows: Sequence[Example]) -> str | None:
    """The system message under which held-out replies are likeliest for the base; None for none."""
    candidates: list[str | None] = [
        None, description, f"You are an assistant that does this: {description}",
        f"{description} Reply in the same manner every time, with nothing else.",
    ]  # fmt: skip
    model = engine.model(bare)
    losses = [per_token(reply_losses(engine.bank, model, rows, one).sum(0)) for one in candidates]
    return candidates[int(np.argmin(losses))]


def _side_by_side(
    engine: Engine, bare: str, name: str, system: str | None, rows: Sequence[Example]
) -> dict[str, dict[str, str]]:
    columns: list[tuple[str, str, str | None]] = [(bare, bare, None), (name, name, None)]
    if system is not None:
        columns.insert(1, (f"{bare} with a system message", bare, system))
    places = [(example, column) for example in rows for column in columns]
    requests = []
    for example, (_, model, message) in places:
        served = engine.model(model)
        prompt = served.prompt(with_system(example.messages[:-1], message))
        decoding = dataclasses.replace(served.decoding, max_tokens=80, temperature=0.0)
        requests.append(GenerationRequest(model, prompt, decoding))
    found: dict[str, dict[str, str]] = {}
    for (example, (title, _, _)), answer in zip(places, engine.generate(requests), strict=True):
        found.setdefault(example.messages[-2]["content"], {})[title] = answer.text
    return found


def _beside(request: Request, finished: Finished, observer: Observer | None) -> None:
    """Make what reads the documents on the same rows, and compare it with the base and the model."""
    names = [request.name]
    for method in methods.registry.all():
        if READS not in {f.name for f in dataclasses.fields(method.Config)}:
            continue
        name = f"{request.name}-{method.name}"
        own = {k: v for k, v in request.settings.items() if k in ("dtype", "device")}
        own["base"] = finished.outcome.plan.run.base  # which a parent may have handed on
        settings = {**request.data, **own, "method": method.name, READS: request.knobs.documents}
        made = tune(Plan.of(name, settings), observer, replace=True)
        finished.readers[name] = made.metrics
        names.append(name)
    run, data = finished.outcome.plan.run, request.plan(request.name).data
    loading = LoadKnobs(dtype=run.dtype, device=run.device)
    finished.beside = evaluate([run.base, *names], data, EvalKnobs(), loading)
