"""What a request for plain completions may say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from rung.server.errors import ApiError
from rung.server.requests import MAX_ANSWERS, UNSUPPORTED, Asked

TextOrIds = str | tuple[int, ...]


def prompts(value: Any, most: int = MAX_ANSWERS) -> tuple[TextOrIds, ...]:
    """The four kinds of prompt as a tuple of texts or of ids.

    Raises:
        ValueError: for anything else, or for more than `most` of them.
    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not value:
        raise ValueError("must be a text, a list of texts, token ids or a list of those, and not empty")
    if _is_ids(value):
        return (tuple(value),)
    if len(value) > most:
        raise ValueError(f"holds {len(value)} prompts, at most {most} are allowed")
    if all(isinstance(p, str) for p in value):
        return tuple(value)
    if all(isinstance(p, list) and p and _is_ids(p) for p in value):
        return tuple(tuple(p) for p in value)
    raise ValueError("must hold only texts, only token ids, or only lists of token ids, none empty")


def _is_ids(value: list[Any]) -> bool:
    # Beyond 32 bits it is no token of any vocabulary, and would not fit a tensor.
    return all(type(i) is int and abs(i) < 2**31 for i in value)


TEXTS_OR_IDS = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        },
    ]
}
Prompts = Annotated[tuple[TextOrIds, ...], BeforeValidator(prompts), WithJsonSchema(TEXTS_OR_IDS)]


class CompletionRequest(Asked):
    unsupported = UNSUPPORTED | {"suffix": (("",), "the models here were not trained to fill in a gap")}

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=20)
    suffix: str | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> CompletionRequest:
        several = self.best_of is not None and self.best_of > (self.n or 1)
        faults = (
            (self.best_of is not None and self.best_of < (self.n or 1), "best_of", "is below 'n'"),
            (several and self.stream, "best_of", "above 'n' cannot be streamed"),
            (self.max_tokens == 0 and not self.echo, "max_tokens", "is 0, which needs 'echo'"),
            (self.echo and self.stream, "echo", "cannot be streamed"),
        )
        for wrong, param, told in faults:
            if wrong:
                raise ApiError(f"'{param}' {told}", param=param, code="invalid_value")
        return self
