from __future__ import annotations

import pytest

from tests.tokens import tiny_tokenizer


@pytest.fixture(scope="session")
def template():
    from rung.data import Template

    return Template.of(tiny_tokenizer())
