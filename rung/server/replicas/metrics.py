"""Figures of several replicas in Prometheus' words, added up."""

from __future__ import annotations

from collections.abc import Sequence

LEAST = ("rung_engine_alive", "process_start_time_seconds")  # of which a sum says nothing
MOST = ("rung_models", "process_max_fds")


def summed(texts: Sequence[str]) -> str:
    """Each sample once: the sum of what the replicas say, or the least or the most of it."""
    values: dict[str, list[float]] = {}
    lines: dict[str, None] = {}
    for text in texts:
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                lines.setdefault(line)
                continue
            name, _, value = line.rpartition(" ")
            values.setdefault(name, []).append(float(value))
            lines.setdefault(name)
    return "".join(f"{_line(one, values)}\n" for one in lines if one.strip())


def _line(line: str, values: dict[str, list[float]]) -> str:
    found = values.get(line)
    if found is None:
        return line
    family = line.partition("{")[0]
    how = min if family in LEAST else max if family in MOST else sum
    return f"{line} {how(found)}"
