"""Keeping what a training made: written as a model with its card, and recorded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rung import bases, home
from rung.artefacts import folders
from rung.artefacts.cards import Card, write_card
from rung.artefacts.licences import classify, tightest
from rung.data import Dataset
from rung.errors import StoreError
from rung.forward.bank import Bank
from rung.memory import high_water
from rung.methods import artefact
from rung.store import Store
from rung.store.records import DatasetRecord, ModelRecord
from rung.train.observers import Made
from rung.types import BaseInfo, LicenceClass


def keep(made: Made, store: Store) -> tuple[ModelRecord, dict[str, Any]]:
    """Write the model and record it with what was measured of it; returns the record and the cost."""
    plan, prepared, adapter, state = made.plan, made.prepared, made.adapter, made.state
    metrics = made.metrics
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
        "parent": plan.run.parent, "run": made.run, "settings": plan.settings(),
        "data": asdict(data), "metrics": metrics, "cost": cost, "history": state.history,
    }  # fmt: skip
    folder = folders.model_folder(plan.name)
    further = plan.method.further_bases(adapter)
    licence_class, reasons = _licence(prepared.base, data, plan.run.parent, store, further)

    base, pictures = prepared.base, prepared.bank.reads == "pictures"
    reward = adapter.reward is not None

    def fill(temporary: Path) -> None:
        nonlocal base
        base = artefact.save(
            temporary, adapter, prepared.bank, plan.method, plan.config, prepared.base,
            prepared.template, about, plan.name,
        )  # fmt: skip
        card = Card(
            name=plan.name, base=prepared.base.spec, base_name=prepared.base.name,
            hub_base=prepared.base.extra.get("hub_id", ""),
            pipeline_tag=_pipeline(plan.method.classifies or reward, pictures), pictures=pictures,
            reward=reward,
            method=plan.method.name, relation="adapter", peft=plan.method.peft_type is not None,
            objective=plan.run.objective if plan.method.trained else "", parent=plan.run.parent,
            datasets=[data],
            licence=prepared.base.licence, licence_class=licence_class, licence_reasons=reasons,
            metrics=metrics, cost=cost, settings=plan.settings(), rows=_rows(made),
        )  # fmt: skip
        write_card(temporary, card)

    store.models.check(plan.name, plan.run.parent)  # before an earlier model of that name is gone
    folders.write(folder, fill)
    model = store.models.put(
        plan.name, method=plan.method.name, base=base, datasets=[data],
        parent=plan.run.parent, run=made.run, folder=folder, metrics=metrics, cost=cost,
        further=further,
    )  # fmt: skip
    for name, value in metrics.items():
        if name.startswith("test_") and not name.endswith("_rows") and math.isfinite(value):
            store.evaluations.add(
                metric=name, value=value, model=plan.name, dataset=data, n=metrics["test_rows"]
            )
    store.runs.update(made.run, status="succeeded", metrics=metrics, cost=cost)
    forget_checkpoints(made.run)
    return model, cost


def forget_checkpoints(run: str) -> None:
    """Delete the checkpoints of a run that nobody goes on with: each is as large as what it trains."""
    with contextlib.suppress(StoreError):  # what was made is kept, whatever is left behind
        folders.remove(home.folder("runs") / run / "checkpoints")


def _rows(made: Made) -> int:
    """Rows that the base's embeddings must have for what was trained; 0 where they have as many."""
    tokens = made.adapter.tokens
    beyond = tokens is not None and tokens.end > made.prepared.bank.vocabulary
    return tokens.end if tokens is not None and beyond else 0


def _pipeline(classifies: bool, pictures: bool) -> str:
    """The Hub's word for what a model does."""
    if pictures:
        return "image-classification" if classifies else "feature-extraction"
    return "text-classification" if classifies else "text-generation"


def _licence(
    base: BaseInfo, data: DatasetRecord, parent: str | None, store: Store, further: Sequence[BaseInfo]
) -> tuple[LicenceClass, list[str]]:
    """The class that results from the parts, and what each part says."""
    parts = [("base", base.name, base.licence, base.licence_class)]
    parts += [("encoder", one.name, one.licence, one.licence_class) for one in further]
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
    return high_water()
