"""Labels: what a model answers with that was measured by which of them it holds likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rung.engine.constraint import Constraint
    from rung.engine.engine import Engine


def labels_only(engine: Engine, name: str) -> Constraint | None:
    """Constrain answers to the labels of a model's conversation; None where it has none.

    For requests that do not say what their answer must look like. From any thread. Token by token the
    likeliest label is found but where a less likely beginning leads to a likelier end.
    """
    talk = engine.model(name).conversation
    if talk is None or not talk.labels:
        return None
    return engine.constraint(name, "choice", list(talk.labels))
