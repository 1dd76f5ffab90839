"""The bar: which figure of which metric is good enough."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rung.errors import ConfigError
from rung.evals import metrics

BASE = "base"  # the key of the base as it is, among the rungs of a climb
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

    def check(self, metric: str) -> None:
        """Refuse a bar that nothing measured by `metric` could be held against.

        Raises:
            ConfigError: saying how to write it.
        """
        if self.metric != metric:
            raise ConfigError(
                f"--bar is about {self.metric} and --metric about {metric}: give one of them"
            )
        found = metrics.get(metric)
        if self.lower != found.lower:
            raise ConfigError(
                f"--bar {self}: of {metric}, {'less' if found.lower else 'more'} is better; write "
                f"{metric}{'<=' if found.lower else '='}{self.value:g}"
            )
        low, high = found.bounds
        if not low <= self.value <= high:
            fits = high == 1 and 2 <= self.value <= 100
            hint = f"; did you mean {self.value / 100:g}?" if fits else ""
            most = "" if math.isinf(high) else f" and at most {high:g}"
            raise ConfigError(
                f"--bar {self} cannot be measured: {metric} is at least {low:g}{most}{hint}"
            )

    def cleared(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value <= self.value if self.lower else value >= self.value

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.lower else '>='} {self.value:g}"
