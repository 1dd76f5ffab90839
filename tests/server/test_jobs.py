"""Files and tuning jobs through the official client, and what becomes of them when things break."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import time

import httpx
import openai
import pytest

from rung.errors import ConfigError
from tests.server.shop import base_folder, client_of, open_shop, rows, upload, wait

HELLO = [{"role": "user", "content": "Say 3"}]
QUICK = {"n_epochs": 2, "batch_size": 4}


def supervised(**hyperparameters):
    return {"type": "supervised", "supervised": {"hyperparameters": {**QUICK, **hyperparameters}}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("jobs") / "tiny")


@pytest.fixture(scope="module")
def shop(base):
    served = open_shop(base)
    yield served
    served.stop()


@pytest.fixture
def client(shop):
    with client_of(shop) as made:
        yield made


def ask(client, model):
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=12, temperature=1.0, seed=5
    )
    return answer.choices[0].message.content


def test_a_job_from_upload_to_answer(client, shop):
    file = upload(client)
    held = upload(client, rows(20).split(b"\n", 12)[12], "held.jsonl")
    job = client.fine_tuning.jobs.create(
        model="tiny", training_file=file.id, validation_file=held.id, suffix="coach", seed=7,
        metadata={"team": "a"}, method=supervised(learning_rate_multiplier=3.0),
    )  # fmt: skip
    assert job.object == "fine_tuning.job" and job.id.startswith("ftjob-")
    assert job.status == "validating_files" and job.seed == 7 and job.metadata == {"team": "a"}
    with pytest.raises(openai.ConflictError, match="in use"):
        client.files.delete(file.id)
    done = wait(client, job)
    assert done.fine_tuned_model.startswith("ft:tiny:rung:coach:")
    assert done.finished_at >= done.created_at and done.error is None
    assert done.trained_tokens > 100 and done.hyperparameters.n_epochs == 2
    assert done.method.type == "supervised"
    # The model answers under both names, and otherwise than its base.
    listed = {m.id: m for m in client.models.list()}
    assert {done.fine_tuned_model, "coach"} <= set(listed) and listed["coach"].root == "tiny"
    assert ask(client, "coach") == ask(client, done.fine_tuned_model)
    assert shop.engine.model("coach").slot != -1
    # What happened.
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))  # pages by itself
    messages = [e.message for e in reversed(events)]
    assert messages[0] == f"Created fine-tuning job: {job.id}"
    assert done.fine_tuned_model in messages[-1]
    metrics = [e.data for e in reversed(events) if e.type == "metrics" and "train_loss" in e.data]
    assert [m["step"] for m in metrics if "valid_loss" not in m] == [1, 2, 3, 4, 5, 6]
    few = "only 12 rows: quality will be hard to tell from luck"  # what `rung tune` warns of too
    assert [e.message for e in events if e.level != "info"] == [few]
    result = client.files.content(done.result_files[0]).text
    table = list(csv.DictReader(io.StringIO(result)))
    assert list(table[0]) == [
        "step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"
    ]  # fmt: skip
    assert [int(r["step"]) for r in table] == [1, 2, 3, 4, 5, 6]
    assert float(table[-1]["train_loss"]) > 0 and any(float(r["valid_loss"] or 0) for r in table)
    assert 0 <= float(table[-1]["train_accuracy"]) <= 1
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"
    # Its checkpoints can be asked.
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [c.step_number for c in checkpoints] == [6, 3]
    assert checkpoints[0].metrics.valid_loss is not None
    assert ask(client, checkpoints[1].fine_tuned_model_checkpoint) is not None
    assert client.files.delete(file.id).deleted
    # It is found again, and can go on being tuned.
    assert [j.id for j in client.fine_tuning.jobs.list(extra_query={"metadata[team]": "a"})] == [job.id]


@pytest.mark.usefixtures("jobs_in_threads")
def test_warnings_of_a_job_name_lines_and_not_the_files_of_the_server(client):
    file = upload(client, rows(12).rstrip() + b"\n" + rows(3), "twice.jsonl")
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=supervised())
    wait(client, job)
    told = [e.message for e in client.fine_tuning.jobs.list_events(job.id) if e.level == "warn"]
    assert any("line 1 = line 13" in message for message in told), told
    assert not any("file-" in message for message in told)


@pytest.mark.usefixtures("jobs_in_threads")
def test_a_tuned_model_is_a_parent_and_can_be_deleted(client):
    file = upload(client)
    first = wait(client, client.fine_tuning.jobs.create(model="tiny", training_file=file.id))
    again = client.fine_tuning.jobs.create(
        model=first.fine_tuned_model, training_file=file.id, method=supervised()
    )
    second = wait(client, again)
    assert client.models.retrieve(second.fine_tuned_model).parent != "tiny"
    with pytest.raises(openai.ConflictError, match="parent"):
        client.models.delete(first.fine_tuned_model)
    assert client.models.delete(second.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        ask(client, second.fine_tuned_model)
    with pytest.raises(openai.PermissionDeniedError, match="is the base"):
        client.models.delete("tiny")


@pytest.mark.usefixtures("jobs_in_threads")
def test_a_dpo_job_by_the_book(client):
    """OpenAI's rows of preferences, beta and all, to the end; the events tell what only pairs have."""
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"Say {i}"}]},
            "preferred_output": [{"role": "assistant", "content": f"{i} it is"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for i in range(8)
    ]
    file = upload(client, "\n".join(json.dumps(row) for row in pairs).encode(), "pairs.jsonl")
    asked = {"type": "dpo", "dpo": {"hyperparameters": {**QUICK, "beta": 0.3}}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, seed=3, method=asked)
    assert job.method.type == "dpo" and job.method.dpo.hyperparameters.beta == 0.3
    done = wait(client, job)
    assert done.status == "succeeded" and done.error is None
    events = client.fine_tuning.jobs.list_events(job.id)
    metrics = [e.data for e in events if e.type == "metrics" and "train_loss" in e.data]
    first = next(m for m in metrics if m["step"] == 1)
    assert first["train_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert ask(client, done.fine_tuned_model) is not None


@pytest.mark.usefixtures("jobs_in_threads")
def test_an_objective_is_carried_by_the_method_that_is_asked_for(client):
    rows = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no"} for i in range(8)]
    file = upload(client, "\n".join(json.dumps(row) for row in rows).encode(), "pairs.jsonl")

    def asked(carrier):
        knobs = {**QUICK, "method": carrier, "virtual_tokens": 3}
        return {"type": "dpo", "dpo": {"hyperparameters": knobs}}

    def create(carrier):
        return client.fine_tuning.jobs.create(
            model="tiny", training_file=file.id, method=asked(carrier)
        )

    for wrong in ("prompt_tunning", "few_shot", 3):
        with pytest.raises(openai.BadRequestError, match="that is trained"):
            create(wrong)
    job = create("prompt_tuning")
    assert job.method.dpo.hyperparameters.method == "prompt_tuning"
    done = wait(client, job)
    assert done.status == "succeeded" and ask(client, done.fine_tuned_model) is not None


@pytest.mark.usefixtures("jobs_in_threads")
def test_rows_of_another_kind_end_a_dpo_job_with_the_reason(client):
    asked = {"type": "dpo", "dpo": {"hyperparameters": QUICK}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=upload(client).id, method=asked)
    done = wait(client, job, "failed")
    assert "chosen" in done.error.message


@pytest.mark.usefixtures("jobs_in_threads")
@pytest.mark.parametrize("kind", [pytest.param("prefix_tuning", marks=pytest.mark.slow), "few_shot"])
def test_any_method_of_rung(client, kind):
    file = upload(client)
    knobs = {"virtual_tokens": 3, **QUICK} if kind == "prefix_tuning" else {}
    method = {"type": kind, kind: {"hyperparameters": knobs}}
    try:
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=method)
    except openai.BadRequestError:
        from rung import methods

        assert kind not in methods.names()
        pytest.skip(f"no {kind} yet")
    done = wait(client, job)
    assert client.models.retrieve(done.fine_tuned_model).root == "tiny"
    assert ask(client, done.fine_tuned_model) is not None


@pytest.mark.usefixtures("jobs_in_threads")
def test_a_bad_line_fails_the_job_and_is_named(client):
    lines = rows(10).splitlines()
    lines[6] = b'{"messages": [{"role": "user"'
    file = upload(client, b"\n".join(lines))
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    failed = wait(client, job, "failed")
    assert failed.error.param == "training_file" and "line 7" in failed.error.message
    assert failed.error.code == "invalid_training_file" and failed.fine_tuned_model is None
    events = client.fine_tuning.jobs.list_events(job.id).data
    assert (events[0].level, events[0].type) == ("error", "message")
    good = upload(client)
    job = client.fine_tuning.jobs.create(model="tiny", training_file=good.id, validation_file=file.id)
    assert wait(client, job, "failed").error.param == "validation_file"


def test_pause_resume_cancel(client):
    file = upload(client, rows(60))
    method = supervised(n_epochs=50, batch_size=1)
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=method)
    wait(client, job, "running")
    while not any(e.type == "metrics" for e in client.fine_tuning.jobs.list_events(job.id).data):
        time.sleep(0.05)
    assert client.fine_tuning.jobs.retrieve(job.id).estimated_finish
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.pause(job.id)
    at = _steps_at_rest(client, job)
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    wait(client, job, "running")
    while _last_step(client, job) <= at:
        time.sleep(0.05)
    assert any(
        e.message == "Going on from the last checkpoint"
        for e in client.fine_tuning.jobs.list_events(job.id, limit=1000)
    )
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled" and cancelled.finished_at
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.resume(job.id)
    _steps_at_rest(client, job)


def _last_step(client, job):
    events = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    return max((e.data["step"] for e in events if e.type == "metrics"), default=0)


def _steps_at_rest(client, job):
    """The last step once no worker adds to it any more."""
    seen, since = _last_step(client, job), time.monotonic()
    while time.monotonic() - since < 1.5:
        time.sleep(0.1)
        if (step := _last_step(client, job)) != seen:
            seen, since = step, time.monotonic()
    return seen


REFUSED = [
    ({"model": "nobody"}, 404, "model"),
    ({"training_file": "file-nope"}, 400, "training_file"),
    ({"validation_file": "file-nope"}, 400, "validation_file"),
    ({"suffix": "x" * 65}, 400, "suffix"),
    ({"suffix": "../x"}, 400, "suffix"),
    ({"suffix": "tiny"}, 400, "suffix"),
    ({"seed": -1}, 400, "seed"),
    ({"metadata": {str(i): "x" for i in range(17)}}, 400, "metadata"),
    ({"method": {"type": "reinforcement"}}, 400, "method.reinforcement.grader"),
    (
        {"method": {"type": "grpo", "grpo": {"hyperparameters": {"reward": "mine.yaml"}}}},
        400,
        "method.hyperparameters.reward",
    ),
    ({"method": {"type": "lorra"}}, 400, "method.type"),
    ({"method": supervised(n_epochs=51)}, 400, "method"),
    ({"method": supervised(batch_size=0)}, 400, "method"),
    ({"method": supervised(learning_rate_multiplier=0)}, 400, "method"),
    ({"method": supervised(beta=1)}, 400, "method"),
    ({"method": supervised(rankk=1)}, 400, "method"),
    ({"method": supervised(rank=0)}, 400, "method"),
    ({"method": supervised(data="/etc/passwd")}, 400, "method"),
    ({"method": supervised(test_data="/etc/passwd")}, 400, "method"),
    ({"method": supervised(push_to_hub="a/b")}, 400, "method"),
    ({"method": {"type": "supervised", "lora": {}}}, 400, "method"),
    ({"integrations": [{"type": "wandb"}]}, 400, "integrations"),
    ({"unknown": 1}, 400, "unknown"),
]


@pytest.mark.parametrize(("changes", "status", "param"), REFUSED, ids=lambda v: str(v)[:50])
def test_what_a_job_cannot_be(client, shop, changes, status, param):
    file = upload(client)
    asked = {"model": "tiny", "training_file": file.id, **changes}
    answer = httpx.post(f"{shop.url}/v1/fine_tuning/jobs", json=asked)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"].split(".")[0] == param.split(".")[0]


@pytest.mark.usefixtures("jobs_in_threads")
def test_auto_means_the_methods_own(client):
    file = upload(client)
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    method = {"type": "supervised", "supervised": {"hyperparameters": auto}}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=method)
    from rung.train.knobs import TrainKnobs

    assert job.hyperparameters.batch_size == TrainKnobs.batch_size
    assert job.hyperparameters.learning_rate_multiplier == 1
    assert job.method.supervised.hyperparameters.n_epochs == "auto"
    client.fine_tuning.jobs.cancel(job.id)


def test_a_file_for_something_else_is_no_training_file(client):
    other = client.files.create(file=("a.jsonl", rows()), purpose="batch")
    with pytest.raises(openai.BadRequestError) as fault:
        client.fine_tuning.jobs.create(model="tiny", training_file=other.id)
    assert fault.value.param == "training_file"


def test_unknown_jobs_and_cursors(client):
    for call in (
        client.fine_tuning.jobs.retrieve, client.fine_tuning.jobs.cancel,
        client.fine_tuning.jobs.pause, client.fine_tuning.jobs.resume,
        client.fine_tuning.jobs.list_events, client.fine_tuning.jobs.checkpoints.list,
    ):  # fmt: skip
        with pytest.raises(openai.NotFoundError):
            call("ftjob-nope")
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.list(after="ftjob-nope")


@pytest.mark.faults
def test_workers_and_servers_may_die(rung_home, base, tmp_path):
    """A killed worker is replaced; a new server takes the job over and serves the result."""
    base = base_folder(tmp_path / "again")
    served = open_shop(base)
    with client_of(served) as client:
        file = upload(client, rows(40))
        method = supervised(n_epochs=6, batch_size=1, save_every=5)
        job = client.fine_tuning.jobs.create(
            model="again", training_file=file.id, suffix="tough", method=method
        )
        while _last_step(client, job) < 10:
            time.sleep(0.02)
        store = served.app.state.service.store
        os.kill(store.jobs.get(job.id).pid, signal.SIGKILL)
        while not any(e.level == "warn" for e in store.jobs.events(job.id, limit=1000).items):
            time.sleep(0.02)
    served.stop()  # leaves a checkpoint
    pid = store.jobs.get(job.id).pid
    assert store.jobs.get(job.id).status in ("queued", "running")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    served = open_shop(base)
    with client_of(served) as client:
        done = wait(client, job)
        steps = [r["step"] for r in _table(client, done)]
        assert steps == [str(i) for i in range(1, 241)]
        expected = ask(client, "tough")
    served.stop()
    served = open_shop(base)  # what was made earlier is served again
    with client_of(served) as client:
        end = time.monotonic() + 20
        while "tough" not in {m.id for m in client.models.list()}:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert ask(client, "tough") == expected
    served.stop()


def _table(client, job):
    return list(csv.DictReader(io.StringIO(client.files.content(job.result_files[0]).text)))


def test_a_server_without_jobs_says_so(live):
    answer = httpx.post(
        f"{live.url}/v1/fine_tuning/jobs", json={"model": "base", "training_file": "file-x"}
    )
    assert answer.status_code == 403 and "--jobs" in answer.json()["error"]["message"]


def test_a_moderator_must_be_a_classifier(base):
    with pytest.raises(ConfigError, match="linear_probe"):
        open_shop(base, moderation=str(base))
