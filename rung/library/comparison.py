"""Ask the base and its models the same, all in one batch."""

from __future__ import annotations

from collections.abc import Sequence

from rung.engine import Completion, Engine
from rung.errors import ConfigError
from rung.library.knobs import DecodingKnobs
from rung.library.model import request


def ask_all(
    engine: Engine, prompts: Sequence[str], knobs: DecodingKnobs
) -> dict[str, dict[str, Completion]]:
    """Return each model's answer to each prompt: the base first, then the models as they were named.

    Raises:
        ConfigError: when there is nothing to ask.
    """
    asked = [text for text in prompts if text.strip()]
    if not asked:
        raise ConfigError("there is nothing to ask: give a prompt, or several")
    bases = [name for name, model in engine.models.items() if model.slot == -1]
    names = [bases[0], *(name for name in engine.models if name not in bases)]
    places = [(text, name) for text in asked for name in names]
    answers = engine.generate([request(engine, name, text, knobs) for text, name in places])
    found: dict[str, dict[str, Completion]] = {text: {} for text in asked}
    for (text, name), answer in zip(places, answers, strict=True):
        found[text][name] = answer
    return found
