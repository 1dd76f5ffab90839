"""What a request must hold to before it is queued."""

from __future__ import annotations

from rung.engine.registry import Registry
from rung.engine.request import ContextExceeded, Generation
from rung.engine.request_state import RequestState
from rung.engine.served_model import ServedModel
from rung.errors import ConfigError


def prepare(
    generation: Generation, model: ServedModel, registry: Registry, context: int
) -> RequestState:
    """A request as the scheduler wants it.

    Raises:
        ConfigError, ContextExceeded: as `Engine.submit`.
    """
    request = generation.request
    vocabulary = registry.bank.model.get_input_embeddings().weight.shape[0]
    if not request.prompt.ids:
        raise ConfigError("the prompt is empty")
    if not 0 <= min(request.prompt.ids) <= max(request.prompt.ids) < vocabulary:
        raise ConfigError(f"the prompt holds a token id outside 0 to {vocabulary - 1}")
    if not all(0 <= i < vocabulary for i in request.decoding.logit_bias):
        raise ConfigError(f"logit_bias holds a token id outside 0 to {vocabulary - 1}")
    if request.decoding.seed is not None and not -(2**63) <= request.decoding.seed < 2**64:
        raise ConfigError("the seed must fit 64 bits")
    front = registry.front(model.slot)
    echoes = request.prompt_logprobs is not None
    room = context - front - len(request.prompt.ids)
    if room < (0 if echoes and request.decoding.max_tokens == 0 else 1):
        taken = f", {front} of them taken by its adapter" if front else ""
        raise ContextExceeded(
            f"the prompt has {len(request.prompt.ids)} tokens, which leaves no room for an answer: the "
            f"context of '{model.name}' is {context} tokens{taken}"
        )
    most = min(request.decoding.max_tokens, room)
    if most < (0 if echoes else 1):
        raise ConfigError(f"max_tokens is {most}, must be at least 1")
    return RequestState(generation, model, front, most)
