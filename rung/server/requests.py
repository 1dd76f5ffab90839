"""What every request for an answer may say: types and bounds as OpenAI publishes them.

A parameter that Rung does not act on is refused unless its value asks for nothing; an unknown one is
refused with the nearest known. Both would otherwise be answered as if they had been heeded.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from rung.errors import nearest
from rung.server.errors import ApiError, not_supported
from rung.types import Decoding

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 1024  # characters
MAX_ANSWERS = 256  # of one request
MAX_BIASES = 2048
MAX_LAYERS = 1024  # that a request may name
INT64 = 2**63


def _stops(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if texts is None:
        return ()
    if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
        raise ValueError("must be a text or a list of texts")
    if len(texts) > MAX_STOPS:
        raise ValueError(f"holds {len(texts)} texts, at most {MAX_STOPS} are allowed")
    if any(not 1 <= len(t) <= MAX_STOP_CHARACTERS for t in texts):
        raise ValueError(f"each text must have 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(texts)


Stops = Annotated[
    tuple[str, ...],
    BeforeValidator(_stops),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class Strict(BaseModel):
    """A body, or a part of one, whose parameters are all known."""

    # Parameter -> the values that ask for nothing, and why any other is refused.
    unsupported: ClassVar[dict[str, tuple[tuple[Any, ...], str]]] = {}

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _knows_every_parameter(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if name not in cls.model_fields:
                close = nearest(name, cls.model_fields)
                hint = close if "did you mean" in close else ""
                raise ApiError(
                    f"unknown parameter '{name[:80]}'{hint}", param=name[:80], code="unknown_parameter"
                )
        return given

    def refuse_unsupported(self) -> None:
        """Refuse a parameter that is known but would not be heeded.

        Raises:
            ApiError: naming it.
        """
        for name, (neutral, reason) in self.unsupported.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                raise not_supported(name, reason)


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # chunks are never padded


UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "store": ((False,), "this server keeps no answers"),
    "metadata": (({},), "this server keeps no answers that it could be attached to"),
    "service_tier": (("auto", "default"), "there is one tier, 'default'"),
    "prompt_cache_retention": (
        ("in_memory", "in-memory"), "prefixes are kept in memory as long as there is room"
    ),
    "prompt_cache_options": (({},), "which prefixes are cached is not for clients to say"),
}  # fmt: skip


class Asked(Strict):
    """What chat and plain completions share."""

    unsupported = UNSUPPORTED

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    max_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=MAX_BIASES)
    # Not OpenAI's, but what most servers of open models take.
    top_k: int | None = Field(None, ge=-1, lt=2**31)  # 0 and -1: no limit
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    # Rung's own, for steered models: how much, and in which of the layers that they steer.
    strength: float | None = Field(None, ge=-100, le=100)
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1, max_length=MAX_LAYERS)
    # Accepted without effect: they say who asks, not what is to be answered. Prompts that begin alike
    # are found in the cache whatever their key.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    # Rung's own: what happened to the request comes back with the answer.
    trace: bool | None = None

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self, vocabulary: int) -> None:
        """Refuse what would not be heeded.

        Args:
            vocabulary: ids that a token may have.

        Raises:
            ApiError: naming the parameter.
        """
        self.refuse_unsupported()
        if self.stream_options is not None and not self.stream:
            raise ApiError("'stream_options' needs 'stream': true", param="stream_options")
        for token in self.logit_bias or ():
            if int(token) >= vocabulary:
                raise ApiError(
                    f"'logit_bias' names the token {token}; there are {vocabulary}", param="logit_bias"
                )

    def decoding(self, own: Decoding, most: int) -> Decoding:
        """How to draw: as the request says, else as the model does.

        Args:
            most: tokens of an answer.
        """
        said: dict[str, Any] = {
            "temperature": self.temperature, "top_p": self.top_p, "seed": self.seed,
            "stop": self.stop, "top_k": self.top_k and max(self.top_k, 0), "min_p": self.min_p,
            "presence_penalty": self.presence_penalty, "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty, "strength": self.strength,
            "layers": self.layers and tuple(self.layers),
            "logit_bias": self.logit_bias and {int(k): v for k, v in self.logit_bias.items()},
        }  # fmt: skip
        values = {name: getattr(own, name) for name in Decoding.__dataclass_fields__}
        values |= {name: value for name, value in said.items() if value is not None}
        return Decoding(**{**values, "max_tokens": most})
