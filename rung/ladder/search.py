"""A small search over a rung's settings by optuna, its trials kept with the rung in the store.

The study is made again from the kept trials whenever it is needed, so that a climb which was
interrupted goes on with what it knows. (optuna's own storage would claim the table by which alembic,
and so the store, knows how far a database was migrated.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)

SEED = 7


class Search:
    """The search on one rung.

    Args:
        space: knob -> values, the default first. falls: whether less is better.
        kept: what `kept` gave, of trials that are done already.
    """

    def __init__(self, space: Mapping[str, tuple[Any, ...]], falls: bool, kept: Mapping[str, Any]):
        self.space, self.falls = space, falls
        self.done: list[dict[str, Any]] = list(kept.get("done", []))
        self.study = optuna.create_study(
            direction="minimize" if falls else "maximize",
            sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=3),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0),
        )
        for trial in self.done:
            self.study.add_trial(self._frozen(trial))

    @property
    def left(self) -> int:
        """How many settings were not tried yet."""
        total = 1
        for values in self.space.values():
            total *= len(values)
        return max(0, total - len({_id(t["params"]) for t in self.done}))

    def ask(self, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The next settings: the defaults first, then what looks promising and was not tried.

        Args:
            begun: settings of a trial that was interrupted; they come first where they can be tried.
        """
        first = {name: values[0] for name, values in self.space.items()}
        tried = {_id(t["params"]) for t in self.done}
        if begun is not None and all(begun.get(n) in values for n, values in self.space.items()):
            first = {name: begun[name] for name in self.space}
        if _id(first) not in tried:
            self.study.enqueue_trial(self._indices(first))
        for _ in range(50):
            trial = self.study.ask()
            params = {
                name: values[trial.suggest_categorical(name, list(range(len(values))))]
                for name, values in self.space.items()
            }
            if _id(params) not in tried:
                self._trial = trial
                return params
            self.study.tell(trial, state=TrialState.FAIL)
        self._trial = trial
        return params

    def report(self, step: int, loss: float) -> bool:
        """Whether a trial whose validation loss is this by then is better given up."""
        self._trial.report(loss if self.falls else -loss, step)
        return self._trial.should_prune()

    def tell(
        self, params: Mapping[str, Any], value: float | None, curve: list[tuple[int, float]], run: str
    ) -> None:
        """Keep how a trial ended; `value` is None where it was given up."""
        self.done.append({"params": dict(params), "value": value, "curve": curve, "run": run})
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self.study.tell(self._trial, value, state)

    @property
    def kept(self) -> dict[str, Any]:
        """What a store holds of it."""
        return {"done": self.done}

    def _indices(self, params: Mapping[str, Any]) -> dict[str, int]:
        return {name: self.space[name].index(value) for name, value in params.items()}

    def _frozen(self, trial: Mapping[str, Any]) -> FrozenTrial:
        params = {n: v for n, v in trial["params"].items() if v in self.space.get(n, ())}
        sign = 1 if self.falls else -1
        return create_trial(
            params=self._indices(params),
            distributions={
                n: optuna.distributions.CategoricalDistribution(list(range(len(self.space[n]))))
                for n in params
            },
            value=trial["value"],
            state=TrialState.PRUNED if trial["value"] is None else TrialState.COMPLETE,
            intermediate_values={int(s): sign * loss for s, loss in trial["curve"]},
        )


def _id(params: Mapping[str, Any]) -> tuple:
    return tuple(sorted((k, str(v)) for k, v in params.items()))
