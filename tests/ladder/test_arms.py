"""Arms of a climb: which rung repeats which, and why one that fits was not tried."""

from __future__ import annotations

from types import SimpleNamespace

from rung import methods
from rung.ladder.arms import Arms
from rung.ladder.rungs import Rung
from rung.store.climbs import RungRecord


def arms(*misfits: str) -> Arms:
    found = Arms(SimpleNamespace(task=SimpleNamespace(metric="accuracy")), {})
    lora = methods.get("lora")
    rungs = (("lora", {}), ("lora-int8", {"quantize": "int8"}), ("lora-dpo", {"objective": "dpo"}))
    found.rungs = {key: Rung(key, lora, settings) for key, settings in rungs}
    found.misfits = dict.fromkeys(misfits, "it cannot")
    found.bench = SimpleNamespace(knobs=SimpleNamespace(budget="1m"))
    return found


def record(key: str, **metrics: object) -> RungRecord:
    return RungRecord("climb", key, "lora", metrics=metrics)


def test_a_quantised_rung_repeats_the_plain_one_where_that_can_be_tried():
    rungs = arms().rungs
    assert [arms()._twin(rungs[key]) for key in rungs] == [None, "lora", None]
    assert arms("lora")._twin(rungs["lora-int8"]) is None


def test_what_waited_for_another_rung_says_so(monkeypatch):
    monkeypatch.setattr(Arms, "lowest", lambda self, key: 42.4)
    found = arms()
    tried = {"lora": record("lora", validation={"value": 0.5}), "lora-int8": record("lora-int8")}
    assert found.out_of_time("lora-int8", tried) == (
        "it repeats lora over a smaller base, and lora has not had all its rows"
    )
    untried = {key: record(key) for key in tried}
    assert found.out_of_time("lora-int8", untried) == (
        "no time: a sample would take about 42 s of --budget 1m"
    )
