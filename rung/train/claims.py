"""Whether a run may be gone on with by this process, and whether its model may take another's place."""

from __future__ import annotations

import platform

from rung.errors import ConfigError, DataError, ModelNotFound
from rung.store import Store
from rung.store.records import RunRecord, Status, moment
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
    elsewhere = run.host != platform.node()
    if force and elsewhere:
        return "interrupted"
    hint = "; if that process is gone, add --force" if elsewhere else ""
    raise ConfigError(f"run {run.id} is still running in process {run.pid} on {run.host}{hint}")


def take_up(run: RunRecord, prepared: Prepared, store: Store) -> RunRecord:
    """Make an interrupted run this process's own.

    Raises:
        DataError: where its data or base has changed. ConfigError: where another process was first.
    """
    if keeping.data_record(prepared.dataset).digest != run.data:
        raise DataError(f"the data of run {run.id} has changed since it began: start a new run")
    if run.base not in (None, prepared.base.digest):
        raise DataError(f"the base of run {run.id} has changed since it began: start a new run")
    return store.runs.take_up(run)


def compare(run: RunRecord, prepared: Prepared) -> None:
    """Refuse another base or other data than the process of rank 0 has.

    Raises:
        DataError: saying which.
    """
    for what, own, theirs in (
        ("data", keeping.data_record(prepared.dataset).digest, run.data),
        ("base", prepared.base.digest, run.base),
    ):
        if own != theirs:
            raise DataError(f"the {what} of this process is not that of rank 0: give both the same")
