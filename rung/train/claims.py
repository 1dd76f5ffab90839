"""Whether a run may be gone on with by this process, and whether its model may take another's place."""

from __future__ import annotations

from rung.errors import ConfigError, DataError, ModelNotFound
from rung.store import Store
from rung.store.records import RunRecord, Status, moment
from rung.store.runs import refuse_running
from rung.train import keeping
from rung.train.prepare import Prepared


def refuse_to_replace(name: str, store: Store) -> None:
    """Raise ConfigError where there is a model of that name."""
    try:
        record = store.models.get(name)
    except ModelNotFound:
        return
    raise ConfigError(
        f"there is a model '{name}' already, made by {record.method} on {record.created[:10]}: "
        "say --replace, or choose another name"
    )


def refuse_newer(run: RunRecord, store: Store) -> None:
    """Raise ConfigError where the model of a run's name was made since the run began, by another."""
    try:
        record = store.models.get(run.model)
    except ModelNotFound:
        return
    if record.run != run.id and moment(record.created) > moment(run.started):
        raise ConfigError(
            f"there is a model '{run.model}' that was made since run {run.id} began: "
            f"rung resume {run.id} --replace takes its place"
        )


def refuse_ended(run: RunRecord, force: bool = False) -> Status:
    """Return the status of a run that can be gone on with; raises ConfigError for any other.

    Args:
        force: count one that is said to run on another host as interrupted.
    """
    if run.status == "succeeded":
        raise ConfigError(f"run {run.id} has finished: its model is '{run.model}'")
    if run.status != "running":
        return run.status
    refuse_running("run", run.id, run.host, run.pid, force)
    return "interrupted"


def take_up(run: RunRecord, prepared: Prepared, store: Store) -> RunRecord:
    """Make an interrupted run this process's own.

    Raises:
        DataError: where its data or base has changed. ConfigError: where another process was first.
    """
    for what in _other(run, prepared):
        raise DataError(f"the {what} of run {run.id} has changed since it began: start a new run")
    return store.runs.take_up(run)


def compare(run: RunRecord, prepared: Prepared) -> None:
    """Refuse another base or other data than the process of rank 0 has.

    Raises:
        DataError: saying which.
    """
    for what in _other(run, prepared):
        raise DataError(f"the {what} of this process is not that of rank 0: give both the same")


def _other(run: RunRecord, prepared: Prepared) -> list[str]:
    """What is not what a run began with; an old run does not say which base it had."""
    own = {"data": keeping.data_record(prepared.dataset).digest, "base": prepared.base.digest}
    begun = {"data": run.data, "base": run.base or own["base"]}
    return [what for what in own if own[what] != begun[what]]
