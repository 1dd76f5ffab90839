"""The licence of what is made: the tightest of its parts, and what stands against it is told first."""

from __future__ import annotations

import itertools
import json

import pytest

from rung.artefacts.licences import classify, output_terms
from rung.cli import run
from rung.errors import ConfigError
from rung.store import Store
from rung.synthesis.terms import Part, settle
from rung.types import LICENCE_ORDER
from tests.synthesis.conftest import DESCRIPTION, made_by, teaching

NAMES = {
    "permissive": "mit", "restricted": "bigscience-openrail-m", "unknown": "house-rules",
    "non-commercial": "cc-by-nc-4.0", "closed": "proprietary",
}  # fmt: skip
PAIRS = list(itertools.product(LICENCE_ORDER, LICENCE_ORDER))


def part(kind, group):
    assert classify(NAMES[group]) == group
    return Part(kind, f"a {group} one", NAMES[group], group, writes=kind == "teacher")


@pytest.mark.parametrize(("teacher", "base"), PAIRS)
def test_of_every_pair_the_tighter_class_results(teacher, base):
    parts = [part("teacher", teacher), part("base", base)]
    found = settle(parts, accepted=True)
    tighter = max(teacher, base, key=LICENCE_ORDER.index)
    assert found.licence_class == tighter and classify(found.licence) == tighter
    assert all(p.name in " ".join(found.reasons) for p in parts)


@pytest.mark.parametrize(("teacher", "base"), PAIRS)
def test_a_closed_teacher_is_refused_until_its_terms_are_accepted(teacher, base):
    parts = [part("teacher", teacher), part("base", base)]
    if teacher == "closed":
        with pytest.raises(ConfigError, match="--accept-terms"):
            settle(parts)
    else:
        settle(parts)


@pytest.mark.parametrize(("group", "wanted"), PAIRS)
def test_what_is_tighter_than_wanted_is_refused_by_name(group, wanted):
    parts = [part("teacher", "permissive"), part("base", group)]
    if LICENCE_ORDER.index(group) > LICENCE_ORDER.index(wanted):
        with pytest.raises(ConfigError, match=f"a {group} one.*--licence-class {wanted}"):
            settle(parts, wanted=wanted)
    else:
        assert LICENCE_ORDER.index(settle(parts, wanted=wanted).licence_class) <= LICENCE_ORDER.index(
            wanted
        )


@pytest.mark.parametrize(
    ("licence", "verdict"),
    [
        ("llama3", "forbidden"), ("llama3.1", "conditions"), ("gemma", "conditions"),
        ("proprietary", "forbidden"), ("apache-2.0", "allowed"),
    ],
)  # fmt: skip
def test_terms_on_outputs_are_known_by_licence(licence, verdict):
    assert output_terms(licence)[0] == verdict


def test_a_conflict_is_told_before_anything_is_asked(rung_home):
    with teaching() as server:
        with pytest.raises(ConfigError, match="--accept-terms"):
            made_by(server.name, teacher_licence=None)
        assert not server.asked


@pytest.mark.parametrize("group", LICENCE_ORDER)
def test_the_teachers_class_reaches_the_model(group, rung_home, tmp_path, capsys):
    out = tmp_path / "data.jsonl"
    with teaching() as server:
        words = ["synth", DESCRIPTION, "--out", str(out), "--examples", "30", "--accept-terms"]
        words += ["--teacher", server.name, "--teacher-licence", NAMES[group]]
        assert run(words) == 0
    row = json.loads(out.read_text().splitlines()[0])
    assert row["provenance"]["licence_class"] == group
    assert f"license: {NAMES[group]}" in out.with_suffix(".md").read_text()
    scratch = "scratch:layers=1,width=16,heads=2,vocab=300,context=256"
    tune = ["tune", "kid", "--data", str(out), "--base", scratch, "--steps", "1", "--device", "cpu"]
    assert run([*tune, "--dtype", "float32"]) == 0
    found, reasons = Store.open().licence("kid")
    assert LICENCE_ORDER.index(found) >= LICENCE_ORDER.index(group)
    assert any(NAMES[group] in reason for reason in reasons)
    card = (rung_home / "models" / "kid" / "README.md").read_text()
    assert f"{NAMES[group]} ({group})" in card
    capsys.readouterr()
    assert run(["show", "kid"]) == 0 and NAMES[group] in capsys.readouterr().out
