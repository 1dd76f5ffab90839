#!/usr/bin/env bash
# A seeded Optuna study that is resumed from its storage tries the same values again.
#
# Version: optuna 5.0.0, TPESampler, SQLite storage.
# Behaviour: the storage keeps trials, not the sampler's random state. The program that starts again builds
#   TPESampler(seed=0) afresh, and while the study holds fewer trials than n_startup_trials the sampler draws at
#   random from that seed: the resumed trials equal the first ones to the last digit. Neither side notices that
#   a finished trial has these very values.
# A good guess: load_if_exists=True continues the study, so the sixth trial of 5 + 5 is the sixth of 10.
# Why it matters: a search over adapters that is stopped and resumed (a spot machine, a time limit) spends its
#   second half on training what it already has. Seed with the number of trials that exist, or pickle the
#   sampler beside the study.
# Seen:
#   ten at once   0.0015677 0.007257 0.0025766 0.0015119 0.000495 0.0038333 0.0005628 0.0369056 0.0715568 0.0003418
#   five and five 0.0015677 0.007257 0.0025766 0.0015119 0.000495 0.0015677 0.007257 0.0025766 0.0015119 0.000495
#   distinct values: 10 at once, 5 when resumed
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet optuna==5.0.0 SQLAlchemy==2.1.9
cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def rates(name: str, parts: list[int]) -> list[float]:
    """Learning rates that a study tries when it is run in parts, each by a fresh sampler of seed 0."""
    for trials in parts:
        study = optuna.create_study(
            study_name=name,
            storage="sqlite:///study.db",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=0),
        )
        study.optimize(lambda t: t.suggest_float("lr", 1e-5, 1e-1, log=True), n_trials=trials)
    return [t.params["lr"] for t in study.trials]


whole, resumed = rates("whole", [10]), rates("resumed", [5, 5])
print("ten at once  ", *(round(x, 7) for x in whole))
print("five and five", *(round(x, 7) for x in resumed))
print(f"distinct values: {len(set(whole))} at once, {len(set(resumed))} when resumed")
if not (len(set(whole)) == 10 and resumed[5:] == resumed[:5] == whole[:5]):
    sys.exit("no longer as stated: the resumed trials repeat the first five")
PY
