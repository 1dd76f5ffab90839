"""What tests of climbs share: a short look at who else uses the machine."""

from __future__ import annotations

import pytest

from rung.ladder import machine


@pytest.fixture(autouse=True)
def _short_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.01)
