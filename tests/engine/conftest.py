from __future__ import annotations

import pytest

from tests.engine.world import engine_of, tiny_llama


@pytest.fixture(scope="session")
def engine():
    """Stepped by whoever calls `generate`; shared, so leave nothing running."""
    return engine_of(tiny_llama())
