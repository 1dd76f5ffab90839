"""Knobs: one field gives default, check and help; layers merge; every fault is told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.config import Duration, as_dict, coerce, flatten, knob, knobs_of, read_yaml, resolve
from rung.errors import ConfigError, nearest


@dataclass
class Oven:
    group: ClassVar[str] = "oven"
    heat: float = knob(180.0, "How hot.", above=0, most=300, foreign=("temperature", "broil=300"))
    minutes: int | None = knob(None, "How long; until done by default.", least=1)
    mode: str = knob("fan", "How it heats.", choices=("fan", "grill"))
    trays: list[str] = knob([], "What goes in.")
    shelves: list[str] = knob([], "Where it goes.", names=True)
    preheat: bool = knob(False, "Heat it first.")


@dataclass
class Timer:
    group: ClassVar[str] = "timer"
    minutes: int | None = knob(5, "When it rings.", least=1, most=10**6)
    snooze: Duration = knob(Duration("90s"), "How long it is silent.")


def test_a_field_says_everything() -> None:
    heat, minutes, mode, trays, _, preheat = knobs_of(Oven)
    assert heat.flag == "--heat" and heat.bounds == "above 0 and at most 300" and heat.group == "oven"
    assert minutes.optional and minutes.type is int and minutes.default is None
    assert mode.choices == ("fan", "grill")
    assert trays.many and trays.type is str and trays.default == []
    assert preheat.type is bool
    assert knobs_of(Timer)[0].bounds == "at least 1 and at most 1000000"  # not 1e+06


def test_later_layers_win_and_a_shared_knob_is_set_in_each() -> None:
    oven, timer = resolve([Oven, Timer], {"heat": 1, "minutes": 2}, {"heat": "2.5", "trays": "bun"})
    assert as_dict(oven) == {
        "heat": 2.5, "minutes": 2, "mode": "fan", "trays": ["bun"], "shelves": [],
        "preheat": False,
    }  # fmt: skip
    assert timer.minutes == 2
    assert resolve([Oven])[0].trays is not resolve([Oven])[0].trays


def test_a_section_sets_one_dataclass_alone() -> None:
    oven, timer = resolve([Oven, Timer], {"oven": {"minutes": 9}, "heat": 20, "timer": {}})
    assert (oven.minutes, timer.minutes, oven.heat) == (9, 5, 20)
    oven, timer = resolve([Oven, Timer], {"oven": {"minutes": 9}}, {"minutes": 2})
    assert (oven.minutes, timer.minutes) == (2, 2)  # the later layer wins
    oven, timer = resolve([Oven, Timer], {"minutes": 2}, {"timer.minutes": 3})
    assert (oven.minutes, timer.minutes) == (2, 3)
    assert flatten({"a-b": {"c-d": 1}, "e": 2}) == {"a_b.c_d": 1, "e": 2}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ovn": {"heat": 1}}, "unknown section 'ovn', did you mean 'oven'"),
        ({"ovn": {}}, "unknown section 'ovn', did you mean 'oven'"),
        ({"oven": {"haet": 1}}, "unknown setting 'haet' in section 'oven', did you mean 'heat'"),
        ({"oven": {"heat": 1}, "heat": 1}, "'heat' is set twice, alone and in section 'oven'"),
        ({"oven": None}, "'oven' is a section: write its settings below it"),
        ({"heat": {"oven": 1}}, "'heat' is a setting and no section"),
        ({"oven": {"heat": 900}}, "--heat is 900, must be above 0 and at most 300"),
        ({"temperature": 1}, r"unknown setting 'temperature', here heat \(How hot"),
        ({"oven": {"broil": True}}, "unknown setting 'broil' in section 'oven', here heat: 300"),
    ],
)
def test_faults_of_sections_and_names_of_other_libraries(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve([Oven, Timer], settings)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("1h30m", 5400), ("300s", 300), ("0.5h", 1800)],
)
def test_durations(text: Any, seconds: float) -> None:
    (timer,) = resolve([Timer], {"snooze": text})
    assert timer.snooze.seconds == seconds and timer.snooze == str(text)
    assert resolve([Timer], as_dict(timer)) == [timer]


@pytest.mark.parametrize("text", ["soon", "", "0s", "-5m", "m", "nan", "1d", ["1m"]])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ConfigError, match="--snooze is .*"):
        resolve([Timer], {"snooze": text})


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as fault:
        resolve([Oven, Timer], {"heta": 1, "mode": "grll"}, {"heat": 0, "minutes": "x", "pre-heat": 1})
    assert str(fault.value) == (
        "unknown setting 'heta', did you mean 'heat'?; unknown setting 'pre_heat', did you mean "
        "'preheat'?; --heat is 0, must be above 0 and at most 300; --minutes is 'x', must be a whole "
        "number; --mode is 'grll', did you mean 'grill'?"
    )


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("heat", "1e2", 100.0),
        ("minutes", "3.0", 3),
        ("minutes", None, None),
        ("mode", "grill", "grill"),
        ("trays", ("a", "b"), ["a", "b"]),
        ("trays", 5, ["5"]),
        ("trays", "buns, rolls", ["buns, rolls"]),
        ("shelves", "top, middle", ["top", "middle"]),
        ("shelves", ["top,middle", "low"], ["top", "middle", "low"]),
        ("preheat", "yes", True),
        ("preheat", False, False),
    ],
)
def test_values_that_fit(name: str, value: Any, result: Any) -> None:
    (one,) = [k for k in knobs_of(Oven) if k.name == name]
    assert coerce(one, value) == result


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("heat", "nan", "must be above 0"),
        ("heat", "inf", "must be above 0"),
        ("heat", None, "needs a value"),
        ("heat", True, "must be a number"),
        ("heat", {"a": 1}, "must be a number"),
        ("minutes", 1.5, "must be a whole number"),
        ("minutes", "1e400", "must be a whole number"),
        ("minutes", 0, "must be at least 1"),
        ("mode", ["fan"], "must be a text"),
        ("trays", {"a": 1}, "must be a text"),
        ("preheat", "perhaps", "must be true or false"),
    ],
)
def test_values_that_do_not(name: str, value: Any, words: str) -> None:
    (one,) = [k for k in knobs_of(Oven) if k.name == name]
    with pytest.raises(ValueError, match=words):
        coerce(one, value)


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("heat: 20\ntrays: [a, b]\n")
    assert read_yaml(path) == {"heat": 20, "trays": ["a", "b"]}
    path.write_text("oven: {heat: 20}\ntimer:\n  minutes: 3\n")
    assert read_yaml(path) == {"oven.heat": 20, "timer.minutes": 3}
    path.write_text("# nothing yet\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: [", "a.yaml:2: not YAML"),
        (b"- 1", "must hold 'name: value' lines"),
        (b"\xff", "not UTF-8"),
        (b"[" * 5000, "not YAML"),
        (b"a: 2024-99-99", "not YAML"),
        (b"? [a, b]\n: c", "not YAML"),
    ],
)
def test_yaml_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as fault:
        read_yaml(path)
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 300


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smolm2", "smollm2-135m"),
        ("smollm", "smollm2-135m"),
        ("gpt22", "gpt2"),
        ("SMOLLM2-135M", "smollm2-135m"),
        ("smolvm-256m", "smolvlm-256m"),
    ],
)
def test_the_nearest_name(name: str, hint: str) -> None:
    known = ["smollm2-135m", "smolvlm-256m", "gpt2", "llama3.2-1b"]
    assert nearest(name, known) == f", did you mean '{hint}'?"


def test_no_name_is_near() -> None:
    assert nearest("xyzzy", ["b", "a", "a"]) == ", known: a, b"
    assert nearest("xyzzy", []) == ""


def test_of_many_names_the_first_are_told():
    hint = nearest("xyzzy", [f"model-{i:03}" for i in range(300)])
    assert hint.startswith(", known: model-000, model-001") and hint.endswith(" and 280 more")
    assert len(hint) < 400


def test_dashes_make_no_two_flags_alike():
    assert "did you mean" not in nearest("--verbose", ["--base", "--lr", "--help"])
    assert nearest("--quantise", ["--base", "--quantize"]) == ", did you mean '--quantize'?"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3min", 180), ("90 sec", 90), ("2 hours", 7200), ("1h 30m", 5400), ("1.5hrs", 5400),
     ("20M", 1200), ("45s", 45)],
)  # fmt: skip
def test_time_is_read_as_people_write_it(text, seconds):
    assert Duration(text).seconds == seconds


@pytest.mark.parametrize("text", ["1", "45", "2.5"])
def test_a_number_without_a_unit_is_asked_for_one(text):
    """`--budget 20` was twenty seconds, in which nothing was tried."""
    with pytest.raises(ValueError, match=f"is '{text}': of what\\? Write {text}s, {text}m or {text}h"):
        Duration(text)


@pytest.mark.parametrize("text", ["1h30", "", " ", "3 months", "m", "min", "-3m", "3m2h", "0s", "1e9m"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="give a time such as"):
        Duration(text)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("010", "heat", 10.0), ("1e-4", "heat", 1e-4), (".5", "heat", 0.5), ("0x10", "heat", 16.0),
        ("+5", "heat", 5.0), ("010", "minutes", 10), ("1e2", "minutes", 100),
        ("no", "preheat", False), ("off", "preheat", False), ("true", "preheat", True),
        ("yes", "preheat", True),
        ("[no, 010, 1e3, 12:30, 2024-1-1, true, True, 1_0, 1.50]", "trays",
         ["no", "010", "1e3", "12:30", "2024-1-1", "true", "True", "1_0", "1.50"]),
        ('"no"', "trays", ["no"]), ("~", "minutes", None),
    ],
)  # fmt: skip
def test_a_yaml_value_means_what_it_means_behind_a_flag(tmp_path, text, name, value) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{name}: {text}\n")
    (oven,) = resolve([Oven], read_yaml(path))
    assert getattr(oven, name) == value
    if not text.startswith(("[", '"', "~")):
        (flagged,) = resolve([Oven], {name: text})
        assert getattr(flagged, name) == value


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8))
def test_a_plain_text_stays_as_it_is_written(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(f"trays: [{text}]\n")
        (oven,) = resolve([Oven], read_yaml(path))
    assert oven.trays == [text] or text in ("null", "Null", "NULL")


@pytest.mark.parametrize("second", ["heat: 5", "he-at: 5"])
def test_a_key_that_stands_twice_is_named(tmp_path, second) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("heat: 1\nhe_at: 4\n" + second + "\n")
    with pytest.raises(ConfigError, match=r"a\.yaml:3: .*stands twice, first in line [12]"):
        read_yaml(path)


def test_a_name_that_is_known_was_not_mistyped():
    assert nearest("qwen2.5-0.5b", ["qwen2.5-0.5b", "qwen2.5-1.5b"]) == ""
