"""A weighted sum of rewards, as a YAML file lists them.

- reward: number
- reward: format:<think>.*</think>.*
  weight: 0.2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rung.errors import ConfigError
from rung.rewards.base import Answer, Context
from rung.rewards.base import Reward as Base


class Weighted(Base):
    """Adds up what its parts score; a part that gives None is left out of an answer's sum.

    Attributes:
        parts: rewards with their weights.
    """

    summary = "a weighted sum of rewards"

    def __init__(self, parts: Sequence[tuple[Base, float]], name: str = "sum"):
        super().__init__(name)
        self.parts = list(parts)

    @classmethod
    def read(cls, path: Path, make: Callable[[str], Base]) -> Weighted:
        """Read the parts from a YAML file; each is made by `make`.

        Raises:
            ConfigError: naming the file and what is wrong in it.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as fault:
            raise ConfigError(f"--reward: cannot read {path}: {fault.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as fault:
            raise ConfigError(f"--reward: {path} is no YAML: {fault}") from None
        if not isinstance(content, list) or not content:
            raise ConfigError(f"--reward: {path} must hold a list of 'reward: SPEC' with 'weight: X'")
        parts = []
        for i, item in enumerate(content, 1):
            spec, weight = _item(item, f"--reward: {path}: item {i}")
            if Path(spec).resolve() == path.resolve():
                raise ConfigError(f"--reward: {path}: item {i} names the file itself")
            parts.append((make(spec), weight))
        return cls(parts, path.stem)

    def configured(self, argument: str, context: Context) -> Weighted:
        return self

    def score(self, answers: Sequence[Answer]) -> list[float | None]:
        found = [part.score(answers) for part, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        return [_sum(values, weights) for values in zip(*found, strict=True)]

    def score_parts(self, answers: Sequence[Answer]) -> dict[str, list[float | None]]:
        """What each part scores, before weights, by its spec."""
        return {_spec(part): part.score(answers) for part, _ in self.parts}

    def close(self) -> None:
        for part, _ in self.parts:
            part.close()


def _item(item: Any, where: str) -> tuple[str, float]:
    if isinstance(item, str):
        return item, 1.0
    if not isinstance(item, dict) or not isinstance(item.get("reward"), str):
        raise ConfigError(f"{where} must be 'reward: SPEC', and 'weight: X' where it is not 1")
    unknown = set(item) - {"reward", "weight"}
    weight = item.get("weight", 1.0)
    if unknown:
        raise ConfigError(f"{where} has '{sorted(unknown)[0]}': only reward and weight are known")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ConfigError(f"{where}: weight is '{weight}', must be a number")
    return item["reward"], float(weight)


def _sum(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [v * w for v, w in zip(values, weights, strict=True) if v is not None]
    return sum(known) if known else None


def _spec(part: Base) -> str:
    return f"{part.name}:{part.argument}" if part.argument else part.name
