"""Alignment as one lineage: demonstrations, then a reward model, then training by its rewards.

Each stage is a tuning of its own, kept as a model: NAME-sft, NAME-judge and NAME. A stage whose model
is there already is taken as it is; one that was interrupted, or failed, goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rung import objectives
from rung.data import load
from rung.errors import ConfigError, ModelNotFound
from rung.library.knobs import STAGES, AlignKnobs
from rung.store import Store
from rung.store.records import ModelRecord, RunRecord
from rung.train.job import resume, tune
from rung.train.knobs import SETTLED
from rung.train.observers import Observer
from rung.train.plan import Plan


@dataclass(kw_only=True)
class Stage:
    """One stage as it ended.

    Attributes:
        made: False where the model was there already.
    """

    stage: str
    model: ModelRecord
    metrics: Mapping[str, Any] = field(default_factory=dict)
    made: bool = True


def align(
    name: str,
    knobs: AlignKnobs,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    observer: Callable[[], Observer] = Observer,
    replace: bool = False,
) -> list[Stage]:
    """Run the stages that are not there yet, and give all of them in their order.

    Args:
        sections: further settings of a tuning by stage (`STAGES`).
        observer: makes one for each stage.
        replace: make every stage anew.

    Raises:
        ConfigError: when preferences are missing, or a section is of no stage.
        RungError: as `tune`. Interrupted: as `tune`; said again, this goes on.
    """
    plans = _plans(name, knobs, sections or {})
    if replace:
        _make_room(plans)
    found: list[Stage] = []
    for stage, made, settings in plans:
        if stage == "policy" and found[0].stage == "imitate":
            settings = {"parent": found[0].model.name, **settings}
        if found:
            settings = {**settings, "base": _spec(found[-1].model)}
        found.append(_stage(stage, made, settings, observer(), replace))
    return found


def _plans(
    name: str, knobs: AlignKnobs, sections: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str, dict[str, Any]]]:
    """Stage, name of its model and settings, in order."""
    if not knobs.preferences:
        raise ConfigError("--preferences is missing: name a file with prompt, chosen and rejected")
    if knobs.base.startswith("scratch:"):
        raise ConfigError(
            "--base scratch:... is made for the data of one training, but stages share a base"
        )
    if not objectives.get(knobs.by).draws:
        drawing = ", ".join(o.name for o in objectives.registry.all() if o.draws)
        raise ConfigError(f"--by {knobs.by} does not learn from rewards: choose {drawing}")
    unknown = sorted(set(sections) - set(STAGES))
    if unknown:
        raise ConfigError(f"section '{unknown[0]}' is of no stage: there are {', '.join(STAGES)}")
    shared = {
        "base": knobs.base, "method": knobs.method, "dtype": knobs.dtype, "device": knobs.device,
        "seed": knobs.seed,
    }  # fmt: skip
    rewarded = {
        "objective": knobs.by, "data": knobs.prompts or knobs.preferences,
        "reward": [f"model:{name}-judge"], "answer_tokens": knobs.answer_tokens, "steps": knobs.steps,
    }  # fmt: skip
    stages: list[tuple[str, str, dict[str, Any]]] = [
        ("imitate", f"{name}-sft", {"objective": "sft", "data": knobs.demonstrations}),
        ("judge", f"{name}-judge", {"objective": "reward", "data": knobs.preferences}),
        ("policy", name, rewarded),
    ]
    return [
        (stage, model, {**shared, **own, **sections.get(stage, {})})
        for stage, model, own in stages
        if own["data"]
    ]


def _stage(stage: str, name: str, settings: dict[str, Any], observer: Observer, replace: bool) -> Stage:
    with Store.open() as store:
        plan = Plan.of(name, {k: v for k, v in settings.items() if v is not None})
        known, again = (None, None) if replace else (_known(store, name), _broken_off(store, plan))
        # One that began after the model was made was to take its place.
        if known is not None and (again is None or again.started < known.created):
            observer.note(f"{name} is there already: it is taken as it is (--replace makes it anew)")
            return Stage(stage=stage, model=known, metrics=known.metrics or {}, made=False)
        if again is not None:
            outcome = resume(again.id, observer, store, replace=True)
        else:
            outcome = tune(plan, observer, store, replace=replace)
    return Stage(stage=stage, model=outcome.model, metrics=outcome.metrics)


def _make_room(plans: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Delete what an earlier alignment made of others of its models, which could not be replaced else.

    Nothing is deleted for settings or data that no stage could begin with.

    Raises:
        ConfigError, DataError: for those. InUse: where somebody has made another model of it.
    """
    names = [made for _, made, _ in plans]
    for _, made, settings in plans:
        plan = Plan.of(made, {k: v for k, v in settings.items() if v is not None})
        load(plan.data, plan.objective.wants)
    with Store.open() as store:
        for name in reversed(names):
            known = _known(store, name)
            if known is not None and known.parent in names:
                store.models.delete(name)


def _known(store: Store, name: str) -> ModelRecord | None:
    try:
        return store.models.get(name)
    except ModelNotFound:
        return None


def _broken_off(store: Store, plan: Plan) -> RunRecord | None:
    """The newest run with a plan's settings that was interrupted or failed, and can be gone on with."""
    runs = [r for r in store.runs.list(model=plan.name) if r.status in ("interrupted", "failed")]
    return max((r for r in runs if _same(r.config, plan)), key=lambda r: r.started, default=None)


def _same(config: Mapping[str, Any], plan: Plan) -> bool:
    """Whether an interrupted run has a plan's settings, but for those that a run settles itself."""
    now = plan.settings()
    return all(config.get(k) == v for k, v in now.items() if k not in SETTLED)


def _spec(model: ModelRecord) -> str:
    with Store.open() as store:
        return store.bases.get(model.base).spec
