"""Rung adapts a foundation model to a task, one rung of the ladder at a time."""

__version__ = "0.1.0"
