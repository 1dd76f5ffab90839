"""The end of a tuning: measured once on the test rows, written as a model, recorded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rung import bases
from rung.artefacts import folders
from rung.artefacts.cards import Card, write_card
from rung.artefacts.licences import classify, tightest
from rung.data import Dataset
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.store import Store
from rung.store.records import DatasetRecord, ModelRecord
from rung.train.checkpoint import State
from rung.train.gradient import evaluate
from rung.train.loop import Work
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.types import BaseInfo, LicenceClass


@dataclass
class Outcome:
    """What a tuning gave."""

    model: ModelRecord
    state: State
    metrics: dict[str, Any]
    cost: dict[str, Any]
    settings: dict[str, Any]


def keep(
    plan: Plan,
    prepared: Prepared,
    adapter: Adapter,
    state: State,
    metrics: dict[str, Any],
    run: str,
    store: Store,
) -> Outcome:
    """Write the model and record it with what was measured of it."""
    base_bytes, base_bytes_float32 = bases.memory(prepared.bank.model)
    cost = {
        "seconds": state.seconds,
        "tokens": state.tokens,
        "steps": state.step,
        "parameters": adapter.size,
        "peak_bytes": _peak_bytes(prepared.bank),
        "base_bytes": base_bytes,
        "base_bytes_float32": base_bytes_float32,
    }
    data = data_record(prepared.dataset)
    about = {
        "parent": plan.run.parent, "run": run, "settings": plan.settings(),
        "data": asdict(data), "metrics": metrics, "cost": cost, "history": state.history,
    }  # fmt: skip
    folder = folders.model_folder(plan.name)
    licence_class, reasons = _licence(prepared.base, data, plan.run.parent, store)

    base = prepared.base

    def fill(temporary: Path) -> None:
        nonlocal base
        base = artefact.save(
            temporary, adapter, prepared.bank, plan.method, plan.config, prepared.base,
            prepared.template, about, plan.name,
        )  # fmt: skip
        card = Card(
            name=plan.name, base=prepared.base.spec, base_name=prepared.base.name,
            method=plan.method.name, relation="adapter", peft=plan.method.peft_type is not None,
            objective=plan.run.objective if plan.method.trained else "", parent=plan.run.parent,
            datasets=[data],
            licence=prepared.base.licence, licence_class=licence_class, licence_reasons=reasons,
            metrics=metrics, cost=cost, settings=plan.settings(),
        )  # fmt: skip
        write_card(temporary, card)

    folders.write(folder, fill)
    model = store.models.put(
        plan.name, method=plan.method.name, base=base, datasets=[data],
        parent=plan.run.parent, run=run, folder=folder, metrics=metrics, cost=cost,
    )  # fmt: skip
    for name, value in metrics.items():
        if name.startswith("test_") and not name.endswith("_rows"):
            store.evaluations.add(
                metric=name, value=value, model=plan.name, dataset=data, n=metrics["test_rows"]
            )
    store.runs.update(run, status="succeeded", metrics=metrics, cost=cost)
    return Outcome(model, state, metrics, cost, plan.settings())


def losses(prepared: Prepared, work: Work, state: State, test: bool) -> dict[str, Any]:
    """What training gave and, where `test` says so, the loss of base and model on the test rows."""
    metrics: dict[str, Any] = {"steps": state.step, "best_step": state.best_step or state.step}
    if state.best_loss is not None:
        metrics["validation_loss"] = state.best_loss
        metrics["validation_loss_of_base"] = state.first_loss
    rows = prepared.rows["test"]
    if test and rows:
        tuned = evaluate(work.bank, work.objective, work.slot, rows, work.max_tokens)
        bare = evaluate(work.bank, work.objective, -1, rows, work.max_tokens)
        metrics["test_loss"], metrics["test_loss_of_base"] = tuned["loss"], bare["loss"]
        metrics["test_token_accuracy"] = tuned["token_accuracy"]
        metrics["test_bits_per_byte"] = bits_per_byte(tuned["loss"], prepared, work)
        metrics["test_rows"] = len(rows)
    return metrics


def bits_per_byte(loss: float, prepared: Prepared, work: Work) -> float:
    """What a byte of the test replies costs in bits at a loss in nats per token.

    Unlike the loss, it can be compared between bases with other tokenizers.
    """
    rows = prepared.rows["test"]
    tokens = sum(work.objective.weight(r) for r in rows)
    texts = [[i for i, s in zip(r.ids, r.supervised, strict=True) if s] for r in rows]
    size = sum(len(prepared.template.decode(ids).encode()) for ids in texts)
    return loss * tokens / math.log(2) / max(1, size)


def _licence(
    base: BaseInfo, data: DatasetRecord, parent: str | None, store: Store
) -> tuple[LicenceClass, list[str]]:
    """The class that results from the parts, and what each part says."""
    parts = [("base", base.name, base.licence, base.licence_class)]
    parts.append(("data", data.name, data.licence, classify(data.licence)))
    if parent:
        parts.append(("parent", parent, "its own", store.licence(parent)[0]))
    reasons = [f"{kind} {name}: {licence} ({group})" for kind, name, licence, group in parts]
    return tightest(part[3] for part in parts), reasons


def data_record(dataset: Dataset) -> DatasetRecord:
    """What the store keeps of a data set."""
    return DatasetRecord(
        digest=dataset.digest, name=dataset.name, source=dataset.source,
        licence=dataset.licence, rows=len(dataset), format=dataset.format,
    )  # fmt: skip


def _peak_bytes(bank: Bank) -> int:
    if bank.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
