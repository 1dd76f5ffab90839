"""Patterns that users write."""

from __future__ import annotations

import re

from rung.errors import ConfigError


def compiled(pattern: str, flags: int = re.DOTALL) -> re.Pattern[str]:
    """A pattern, compiled. Raises ConfigError naming what is wrong with it."""
    try:
        return re.compile(pattern, flags)
    except (re.error, RecursionError, OverflowError) as fault:
        raise ConfigError(f"'{pattern[:60]}' is no pattern: {fault}") from None
