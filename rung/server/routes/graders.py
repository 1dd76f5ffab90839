"""Graders by OpenAI's book: whether one is sound, and what it makes of an answer."""

from __future__ import annotations

import time
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from pydantic import Field

from rung.data.turns import turns
from rung.engine.request import GenerationRequest
from rung.rewards.graders import Graded, Grading
from rung.server.reinforcement import checked
from rung.server.requests import Strict
from rung.server.responses import Shape, answers
from rung.server.routing import Routes
from rung.server.state import Service, service_of
from rung.types import Decoding

FLAGS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error",
    "unresponsive_reward_error", "invalid_variable_error", "other_error", "python_grader_server_error",
    "python_grader_runtime_error", "model_grader_server_error", "model_grader_refusal_error",
    "model_grader_parse_error", "formula_evaluation_error",
)  # fmt: skip
MAX_ASKED_TOKENS = 64  # of an answer of a model that scores by words

routes = Routes("/v1/fine_tuning/alpha/graders", scope="train", tags=["fine-tuning"])


class ValidateRequest(Strict):
    grader: dict[str, Any]


class RunRequest(Strict):
    grader: dict[str, Any]
    model_sample: str = Field(max_length=1 << 20)
    item: dict[str, Any] = Field(default_factory=dict)


class CheckedGrader(Shape):
    grader: dict[str, Any]


class GradedMetadata(Shape):
    name: str
    type: str
    errors: dict[str, bool | str | None]
    execution_time: float
    scores: dict[str, float | None]
    token_usage: int | None
    sampled_model_name: str | None


class GradedAnswer(Shape):
    reward: float
    sub_rewards: dict[str, float | None]
    metadata: GradedMetadata
    model_grader_token_usage_per_model: dict[str, Any]


@routes.post("/validate", **answers(CheckedGrader))
def validate(request: Request, asked: ValidateRequest) -> dict[str, Any]:
    """The grader as it is, where it is sound."""
    return {"grader": dict(checked(service_of(request), asked.grader, "grader"))}


@routes.post("/run", **answers(GradedAnswer))
async def run(request: Request, asked: RunRequest) -> dict[str, Any]:
    """What a grader makes of one answer."""
    service = service_of(request)
    grader = checked(service, asked.grader, "grader")
    began = time.perf_counter()
    graded = await run_sync(_graded, service, grader, asked)
    return _shown(grader, graded, time.perf_counter() - began)


def _graded(service: Service, grader: Any, asked: RunRequest) -> Graded:
    grading = Grading(grader, lambda *question: _asked(service, *question))
    try:
        return grading.grade([asked.model_sample], [asked.item])[0]
    finally:
        grading.close()


def _asked(service: Service, name: str, conversations: Any, sampling: Any) -> list[str]:
    """Answers of a served model. Raises ModelNotFound."""
    model = service.engine.model(name)
    decoding = Decoding(
        max_tokens=int(sampling.get("max_completions_tokens") or MAX_ASKED_TOKENS),
        temperature=float(sampling.get("temperature") or 0.0), seed=int(sampling.get("seed") or 0),
    )  # fmt: skip
    requests = [GenerationRequest(name, model.prompt(turns(c)), decoding) for c in conversations]
    return [one.text for one in service.engine.generate(requests, remember=True)]


def _shown(grader: Any, graded: Graded, seconds: float) -> dict[str, Any]:
    errors: dict[str, Any] = {flag: flag in graded.faults for flag in FLAGS}
    details = graded.faults.get("python_grader_runtime_error")
    errors |= {"python_grader_runtime_error_details": details}
    return {
        "reward": 0.0 if graded.reward is None else graded.reward,
        "sub_rewards": dict(graded.parts),
        "metadata": {
            "name": str(grader.get("name", "")), "type": grader["type"], "errors": errors,
            "execution_time": seconds, "scores": dict(graded.parts), "token_usage": None,
            "sampled_model_name": grader.get("model"),
        },
        "model_grader_token_usage_per_model": {},
    }  # fmt: skip
