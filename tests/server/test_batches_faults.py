"""Batches of servers that are killed, and of replicas."""

from __future__ import annotations

import time
from pathlib import Path

import openai
import psutil
import pytest

from rung.store.batches import journal
from tests.server.test_batches import body, line, ordered, told, until
from tests.server.test_replicas import SCRATCH, Serving

COUNT = 300  # lines


def client_of(serving: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{serving.address}/v1", api_key="none", max_retries=2)


def begun(client: openai.OpenAI) -> tuple[openai.types.Batch, Path]:
    """A batch of which some lines are answered, and its journal."""
    name = client.models.list().data[0].id
    batch = ordered(client, [line(i, asked=body(i, 40, model=name)) for i in range(COUNT)])
    path, end = journal(batch.id), time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < end
        time.sleep(0.005)
    return batch, path


def held(client: openai.OpenAI, batch: openai.types.Batch) -> bytes:
    """The output of a batch that had all of its lines answered, each of them once."""
    done = until(client, batch, seconds=240)
    assert done.status == "completed" and done.request_counts.completed == COUNT
    assert len(told(client, done.output_file_id)) == COUNT
    return client.files.content(done.output_file_id).content


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_batch_survives_a_kill_of_its_server(rung_home):
    serving = Serving([SCRATCH])
    with client_of(serving) as client:
        batch, path = begun(client)
        serving.process.kill()
        serving.process.wait(30)
    before = path.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert 5 <= whole.count(b"\n") < COUNT
    with Serving([SCRATCH]) as again, client_of(again) as client:
        assert held(client, batch).startswith(whole)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_batch_survives_the_end_of_the_replica_that_answers_it(rung_home):
    with Serving([SCRATCH], "--replicas=2") as serving, client_of(serving) as client:
        batch, path = begun(client)
        for replica in psutil.Process(serving.process.pid).children():
            replica.kill()
        assert path.read_bytes().count(b"\n") < COUNT
        end = time.monotonic() + 240
        while True:  # until the replica that is asked for batches is back
            try:
                client.batches.retrieve(batch.id)
                break
            except openai.APIError:
                assert time.monotonic() < end
                time.sleep(0.5)
        assert held(client, batch)
