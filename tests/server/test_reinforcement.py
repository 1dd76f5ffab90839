"""Reinforcement jobs and graders by OpenAI's book."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from tests.server.shop import base_folder, client_of, open_shop, upload, wait

CHECK = {
    "type": "string_check", "name": "says", "input": "{{sample.output_text}}",
    "reference": "{{item.wanted}}", "operation": "ilike",
}  # fmt: skip
NEAR = {
    "type": "text_similarity", "name": "near", "input": "{{sample.output_text}}",
    "reference": "{{item.wanted}}", "evaluation_metric": "fuzzy_match",
}  # fmt: skip
BOTH = {
    "type": "multi", "name": "both", "graders": {"says": CHECK, "near": NEAR},
    "calculate_output": "0.5 * says + near",
}  # fmt: skip
PYTHON = {
    "type": "python", "name": "own",
    "source": "def grade(sample, item):\n    return float(item['wanted'] in sample['output_text'])",
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    served = open_shop(base_folder(tmp_path_factory.mktemp("jobs") / "tiny"))
    yield served
    served.stop()


@pytest.fixture
def client(shop):
    with client_of(shop) as made:
        yield made


def prompts(count: int = 8, first: int = 0) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"Say {i}"}], "wanted": "aeiou"[i % 5]}
        for i in range(first, first + count)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def asked(grader, **hyperparameters):
    settings = {"n_epochs": 1, "batch_size": 4, "answer_tokens": 8, **hyperparameters}
    return {
        "type": "reinforcement",
        "reinforcement": {"grader": grader, "hyperparameters": settings},
    }


@pytest.mark.usefixtures("jobs_in_threads")
@pytest.mark.parametrize(
    "grader", [BOTH, pytest.param(CHECK, marks=pytest.mark.slow)], ids=["multi", "string_check"]
)
def test_a_reinforcement_job_by_the_book(client, grader):
    file = upload(client, prompts(8), "8.jsonl")
    held = upload(client, prompts(3, first=8), "3.jsonl")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, seed=3, validation_file=held.id,
        method=asked(grader, compute_multiplier=0.5, reasoning_effort="default", eval_interval=1),
        extra_body={},
    )  # fmt: skip
    assert job.method.type == "reinforcement" and job.method.reinforcement is not None
    done = wait(client, job)
    assert done.status == "succeeded" and done.error is None, done.error
    events = client.fine_tuning.jobs.list_events(job.id)
    metrics = [e.data for e in events if e.type == "metrics"]
    assert any("train_loss" in m for m in metrics)
    answer = client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "Say 3"}], max_tokens=4
    )
    assert answer.choices[0].message.content is not None


def run(shop, grader, sample, item):
    body = {"grader": grader, "model_sample": sample, "item": item}
    return httpx.post(f"{shop.url}/v1/fine_tuning/alpha/graders/run", json=body, timeout=60)


def test_graders_are_tried(shop, client):
    found = client.fine_tuning.alpha.graders.run(
        grader=BOTH, model_sample="an apple", item={"wanted": "Apple"}
    )
    assert set(found.sub_rewards) == {"says", "near"} and found.sub_rewards["says"] == 1.0
    assert found.reward == pytest.approx(0.5 + found.sub_rewards["near"])
    assert found.metadata.type == "multi" and not found.metadata.errors.other_error
    assert client.fine_tuning.alpha.graders.validate(grader=BOTH).grader is not None
    lost = run(shop, CHECK, "x", {}).json()
    assert lost["reward"] == 0 and lost["metadata"]["errors"]["invalid_variable_error"] is True
    score = {
        "type": "score_model", "name": "s", "model": "tiny", "range": [0, 10],
        "input": [{"role": "user", "content": "Rate: {{sample.output_text}}"}],
    }  # fmt: skip
    answer = run(shop, score, "x", {})
    assert answer.status_code == 200, answer.text
    assert 0 <= answer.json()["reward"] <= 10


BAD = [
    ({"type": "nothing"}, "grader.type is 'nothing'"),
    ({**CHECK, "operation": "equals"}, "grader.operation is 'equals'"),
    ({**CHECK, "reference": "{{row.a}}"}, "only item. and sample. are known"),
    ({k: v for k, v in CHECK.items() if k != "input"}, "grader.input is missing"),
    ({**NEAR, "evaluation_metric": "rouge_9"}, "did you mean 'rouge_"),
    ({**BOTH, "calculate_output": "__import__('os')"}, "calculate_output holds"),
    ({**BOTH, "calculate_output": "says +"}, "fails"),
    ({**BOTH, "graders": {}}, "1 to 32 graders"),
    (PYTHON, "runs no Python of its clients"),
    ({"type": "label_model", "input": [{"content": "x"}], "model": "m", "labels": ["a"],
      "passing_labels": ["a"]}, "only inside a multi grader"),
]  # fmt: skip


@pytest.mark.parametrize(("grader", "said"), BAD)
def test_unsound_graders_are_refused(shop, client, grader, said):
    body = {"grader": grader}
    found = httpx.post(f"{shop.url}/v1/fine_tuning/alpha/graders/validate", json=body)
    assert found.status_code == 400 and said in found.json()["error"]["message"], found.text
    with pytest.raises(openai.BadRequestError) as refused:
        client.fine_tuning.jobs.create(
            model="tiny", training_file=upload(client, prompts()).id, method=asked(grader)
        )
    assert said in str(refused.value)


def test_hyperparameters_that_cannot_be_heeded_are_refused(client):
    for name, value in (("eval_samples", 3), ("reasoning_effort", "high"), ("compute_multiplier", 0)):
        with pytest.raises(openai.BadRequestError, match=name):
            client.fine_tuning.jobs.create(
                model="tiny", training_file=upload(client, prompts()).id,
                method=asked(CHECK, **{name: value}),
            )  # fmt: skip


def test_python_runs_where_the_owner_allows_it(tmp_path):
    served = open_shop(base_folder(tmp_path / "tiny"), python_graders=True)
    try:
        assert run(served, PYTHON, "an a", {"wanted": "a"}).json()["reward"] == 1.0
        broken = {**PYTHON, "source": "def grade(sample, item):\n    return item['nothing']"}
        found = run(served, broken, "a", {}).json()
        errors = found["metadata"]["errors"]
        assert errors["python_grader_runtime_error"] and "KeyError" in str(errors)
    finally:
        served.stop()
