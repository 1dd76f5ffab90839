"""Arms of a climb: which rung waits for which."""

from __future__ import annotations

from types import SimpleNamespace

from rung import methods
from rung.ladder.arms import Arms
from rung.ladder.rungs import Rung


def arms(*misfits: str) -> Arms:
    found = Arms(SimpleNamespace(task=SimpleNamespace(metric="accuracy"), given={}), {})
    lora = methods.get("lora")
    rungs = {
        "lora-upper": {"adapted": "upper"}, "lora": {}, "lora-int8": {"quantize": "int8"},
        "lora-upper-dpo": {"adapted": "upper", "objective": "dpo"}, "lora-dpo": {"objective": "dpo"},
    }  # fmt: skip
    found.rungs = {key: Rung(key, lora, settings) for key, settings in rungs.items()}
    found.misfits = dict.fromkeys(misfits, "it cannot")
    return found


def test_a_rung_waits_for_the_one_that_is_as_good_for_less_where_that_can_be_tried():
    rungs = arms().rungs
    first = {"lora": "lora-upper", "lora-int8": "lora", "lora-dpo": "lora-upper-dpo"}
    assert {key: arms()._before(rungs[key]) for key in rungs} == {**dict.fromkeys(rungs), **first}
    assert arms("lora")._before(rungs["lora-int8"]) is None
    assert arms("lora-upper")._before(rungs["lora"]) is None


def test_a_rung_whose_own_setting_the_user_gives_for_all_is_left_out():
    bench = SimpleNamespace(task=SimpleNamespace(metric="accuracy"), given={"lora.adapted": "all"})
    upper = Rung("lora-upper", methods.get("lora"), {"adapted": "upper"})
    assert Arms(bench, {"lora-upper": upper}).misfits == {
        "lora-upper": "--adapted says it for every rung"
    }
