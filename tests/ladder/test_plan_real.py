"""What `rung plan` promises, beside what then happened: a real base, real data, four rungs.

    .venv/bin/pytest -m slow tests/ladder/test_plan_real.py -s

Times follow the machine: it must have nothing else to do.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rung.ladder.climb import climb
from rung.ladder.knobs import ClimbKnobs
from rung.store import Store

pytestmark = [pytest.mark.wheel, pytest.mark.slow]

SARCASM = "wheel:evals/evals/registry/data/sarcasm/samples.jsonl"
RUNGS = ("zero_shot", "linear_probe", "prompt_tuning", "lora")
TIME, MEMORY = 0.25, 0.20
GIVEN = {
    "data": SARCASM, "limit": 240, "validation": 0.2, "base": "smollm2-135m", "dtype": "float32",
    "device": "cpu", "epochs": 1.0, "patience": 0,
}  # fmt: skip


def test_time_and_memory(rung_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Features that an earlier run kept would make the rung faster than anybody could foretell.
    monkeypatch.setenv("RUNG_FEATURES_GB", "0")
    knobs = ClimbKnobs(
        only=list(RUNGS),
        skip=["lora-upper", "lora-int8", "linear_probe-minilm"],
        all=True,
        trials=1,
        budget="1h",
    )
    with Store.open() as store:
        record = climb("planned", GIVEN, knobs, store=store)
        rungs = {r.key: r for r in store.climbs.rungs(record.id)}
    print(f"\n{'rung':<14}{'seconds':>10}{'measured':>10}{'':>7}{'MB':>9}{'measured':>10}")
    wrong = []
    for key in RUNGS:
        told, seen = rungs[key].predicted, rungs[key].cost
        assert rungs[key].status == "succeeded", rungs[key].reason
        time = told["seconds"] / seen["seconds"] - 1
        memory = told["bytes"] / seen["bytes"] - 1
        print(
            f"{key:<14}{told['seconds']:>10.1f}{seen['seconds']:>10.1f}{time:>+7.0%}"
            f"{told['bytes'] / 1e6:>9.0f}{seen['bytes'] / 1e6:>10.0f}{memory:>+7.0%}"
        )
        if abs(time) > TIME or abs(memory) > MEMORY:
            wrong.append(key)
    assert not wrong
