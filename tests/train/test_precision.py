"""The precision that a machine is given where none is named."""

from __future__ import annotations

import pytest

from rung.train import estimate


@pytest.fixture
def machine(monkeypatch):
    """A machine of given speeds, by precision and size; what it was asked to multiply."""
    asked: list[tuple[str, int]] = []

    def of(**speeds):
        def speed(kind, where, size=estimate.PRODUCT):
            asked.append((kind, size))
            return speeds[kind](size)

        monkeypatch.setattr(estimate, "speed", speed)
        return asked

    estimate._fastest.cache_clear()
    yield of
    estimate._fastest.cache_clear()


def test_a_machine_without_instructions_for_bfloat16_multiplies_nothing_large(machine):
    asked = machine(float32=lambda n: 5e10, bfloat16=lambda n: 1e9)
    assert estimate.dtype("auto", "cpu") == "float32"
    assert {size for _, size in asked} == {estimate.LOOK}
    before = len(asked)
    assert estimate.dtype("auto", "cpu") == "float32" and len(asked) == before  # known by now


@pytest.mark.parametrize(("times", "wanted"), [(1.4, "float32"), (1.6, "bfloat16")])
def test_bfloat16_is_taken_where_large_products_gain_by_a_half(machine, times, wanted):
    # A small product may gain nothing where large ones do: calling it takes as long.
    machine(
        float32=lambda n: 5e10,
        bfloat16=lambda n: (times if n == estimate.PRODUCT else 0.8) * 5e10,
    )
    assert estimate.dtype("auto", "cpu") == wanted


def test_a_precision_that_is_named_is_taken_unmeasured(machine):
    asked = machine()
    assert estimate.dtype("bfloat16", "cpu") == "bfloat16" and not asked
