"""Teachers by the name that a user gives them."""

from __future__ import annotations

from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.teacher import Teacher


def open_teacher(name: str, knobs: SynthKnobs) -> Teacher:
    """Open a teacher: a model or base by its name, or what `MODEL@URL` or a URL names behind an API.

    Raises:
        ModelNotFound: for a name that is neither a model nor a base. ConfigError: for a wrong address.
    """
    if "://" in name:
        from rung.synthesis.remote_teacher import RemoteTeacher

        address = name if "@" in name.partition("://")[0] else f"@{name}"
        return RemoteTeacher(address, knobs)
    from rung.synthesis.local_teacher import LocalTeacher

    return LocalTeacher(name)
