"""The bar: which figure of which metric is good enough."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rung.errors import ConfigError

FORM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(>=|<=|=)\s*([-+\w.%]+)\s*")


@dataclass(frozen=True)
class Bar:
    """`metric` must be at least `value`, or at most where `lower` says so."""

    metric: str
    value: float
    lower: bool = False

    @classmethod
    def parse(cls, text: str) -> Bar:
        """`accuracy=0.84`, `macro_f1>=0.8` or `perplexity<=12`.

        Raises:
            ConfigError: when it is no such thing.
        """
        found = FORM.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            value = float(found[3])
        except ValueError:
            raise ConfigError(
                f"--bar is '{text}': give a metric and a figure, such as accuracy=0.84 or "
                "perplexity<=12"
            ) from None
        if not math.isfinite(value):
            raise ConfigError(f"--bar is '{text}': the figure must be finite")
        metric = found[1].replace("-", "_")
        lower = found[2] == "<="
        return cls(metric, value, lower)

    def cleared(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value <= self.value if self.lower else value >= self.value

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.lower else '>='} {self.value:g}"
