"""How far a part of a study is."""

from collections.abc import Callable

Progress = Callable[[float], None]  # from 0 to 1
