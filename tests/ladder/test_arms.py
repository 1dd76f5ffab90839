"""Arms of a climb: which rung repeats which."""

from __future__ import annotations

from types import SimpleNamespace

from rung import methods
from rung.ladder.arms import Arms
from rung.ladder.rungs import Rung


def arms(*misfits: str) -> Arms:
    found = Arms(SimpleNamespace(task=SimpleNamespace(metric="accuracy")), {})
    lora = methods.get("lora")
    rungs = (("lora", {}), ("lora-int8", {"quantize": "int8"}), ("lora-dpo", {"objective": "dpo"}))
    found.rungs = {key: Rung(key, lora, settings) for key, settings in rungs}
    found.misfits = dict.fromkeys(misfits, "it cannot")
    return found


def test_a_quantised_rung_repeats_the_plain_one_where_that_can_be_tried():
    rungs = arms().rungs
    assert [arms()._twin(rungs[key]) for key in rungs] == [None, "lora", None]
    assert arms("lora")._twin(rungs["lora-int8"]) is None
