"""A climb's budget: time, or money or energy that time costs on this machine."""

from __future__ import annotations

import math
import re
from typing import Any

from rung.config import Duration, unitless
from rung.errors import ConfigError

MONEY = re.compile(r"(?:([$€£])\s*)?(\d+(?:\.\d+)?)\s*(usd|eur|gbp|chf|[$€£])?", re.IGNORECASE)
ENERGY = re.compile(r"(\d+(?:\.\d+)?)\s*(k?)wh", re.IGNORECASE)
FORMS = "give a time such as 90s, 20m or 1h, money such as 0.50usd, or energy such as 5wh"


class Budget(Duration):
    """A budget as the user writes it.

    Args:
        price: of an hour of this machine, in whatever money the budget is in. watts: that it draws.

    Attributes:
        seconds: that it comes to; not a number for money and energy until price or watts are known.

    Raises:
        ValueError: for a text that is no budget, in words that follow the knob's name.
    """

    _seconds: float

    def __new__(cls, text: Any, price: float | None = None, watts: float | None = None) -> Budget:
        made = str.__new__(cls, str(text).strip())
        made._seconds = made._in_seconds(price, watts)
        if made._seconds <= 0:
            raise ValueError(f"is '{text}': {unitless(made) or FORMS}")
        return made

    @property
    def seconds(self) -> float:
        return self._seconds

    @property
    def amount(self) -> tuple[str, float]:
        """("time", seconds), ("money", in its unit) or ("energy", watt-hours)."""
        energy, money = ENERGY.fullmatch(self), MONEY.fullmatch(self)
        if energy:
            return "energy", float(energy[1]) * (1000 if energy[2] else 1)
        if money and (money[1] or money[3]):
            return "money", float(money[2])
        return "time", Duration.seconds.fget(self)  # type: ignore[attr-defined]

    def _in_seconds(self, price: float | None, watts: float | None) -> float:
        kind, amount = self.amount
        rate = {"time": 3600.0, "money": price, "energy": watts}[kind]
        if amount <= 0:
            return 0.0
        return 3600 * amount / rate if rate else math.nan

    def check(self) -> None:
        """Refuse a budget of which nobody can say how long it lasts.

        Raises:
            ConfigError: naming the flag that is missing.
        """
        if math.isnan(self.seconds):
            flag = {
                "money": "--price, what an hour of this machine costs",
                "energy": "--watts, what this machine draws while it computes",
            }[self.amount[0]]
            raise ConfigError(f"--budget {self} needs {flag}")
