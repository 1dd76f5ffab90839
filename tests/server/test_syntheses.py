"""Syntheses as jobs: a plan, rows that a tuning takes, what is refused, and a worker that is killed."""

from __future__ import annotations

import json
import shutil
import time
from types import SimpleNamespace

import httpx
import psutil
import pytest

from rung import home
from rung.config import resolve
from rung.server import jobs_supervisor
from rung.server.synthesis_worker import opener
from rung.synthesis import cache, pipeline, topics, writer
from rung.synthesis.kinds import base as kinds_base
from rung.synthesis.knobs import SynthKnobs
from tests.server.shop import base_folder, open_shop
from tests.server.working import as_thread

SYNTHESES = "/v1/rung/syntheses"
OVER = ("succeeded", "failed", "cancelled")
QUICK = {"examples": 4, "language": "any", "max_words": 30}


@pytest.fixture
def idle(shop):
    """The same server, which begins no job meanwhile."""
    supervisor = shop.served.app.state.service.background[0]
    supervisor.limit = 0
    yield shop
    supervisor.limit = 1


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A server whose base has room for what teachers are shown; its workers are threads."""
    folder = tmp_path_factory.mktemp("syntheses") / "tiny"
    base = base_folder(folder, max_position_embeddings=1200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(tmp_path_factory.mktemp("home")))
        spawn = jobs_supervisor._spawn
        patch.setattr(jobs_supervisor, "_spawn", as_thread)
        patch.setattr(kinds_base, "MAX_CHARACTERS", 40)  # fewer tokens
        served = open_shop(base, jobs=1)
        http = httpx.Client(base_url=served.url, timeout=30)
        yield SimpleNamespace(served=served, http=http, spawn=spawn)
        served.stop()


def order(shop, **said):
    settings = {**QUICK, **said.pop("settings", {})}
    body = {"description": "Says numbers, warmly.", "topics": ["one", "two"], **said}
    return shop.http.post(SYNTHESES, json={**body, "settings": settings})


def until(shop, id, *statuses, seconds=120):
    end = time.monotonic() + seconds
    while True:
        found = shop.http.get(f"{SYNTHESES}/{id}").json()
        if found["status"] in (statuses or OVER):
            return found
        assert found["status"] not in OVER and time.monotonic() < end, found
        time.sleep(0.05)


def test_rows_of_an_edited_plan_become_a_file_that_a_tuning_takes(shop):
    made = order(shop, settings={"kinds": "prompts"}, metadata={"for": "me"})
    assert made.status_code == 200, made.text
    id = made.json()["id"]
    assert made.json()["topics"] == ["one", "two"] and made.json()["model"] == "tiny"
    done = until(shop, id, "succeeded")
    assert done["rows"] == done["made"]["rows"] == 4 and done["made"]["licence_class"] == "unknown"
    assert done["metadata"] == {"for": "me"} and done["result_files"] == [done["training_file"]]
    file = shop.http.get(f"/v1/files/{done['training_file']}").json()
    assert file["filename"] == "says-numbers-warmly.jsonl" and file["purpose"] == "fine-tune"
    text = shop.http.get(f"/v1/files/{file['id']}/content").text
    rows = [json.loads(line) for line in text.splitlines()]
    # How many of each hangs on which drafts are refused, and so on how a processor rounds.
    assert {row["provenance"]["topic"] for row in rows} == {"one", "two"}
    assert all(row["provenance"]["teacher"] == "tiny" and row["prompt"] for row in rows)
    assert all({"seed", "licence", "licence_class"} <= set(row["provenance"]) for row in rows)
    said = shop.http.get(f"{SYNTHESES}/{id}/events", params={"limit": 100}).json()["data"]
    messages = [e["message"] for e in reversed(said)]
    assert messages[0] == f"Created synthesis: {id}" and "2 topics: one; two" in messages
    assert "4 of 4 rows" in messages and messages[-1].endswith(f"the rows are {file['id']}")
    body = {"model": "tiny", "training_file": file["id"]}
    tuning = shop.http.post("/v1/fine_tuning/jobs", json=body)
    assert tuning.status_code == 200
    shop.http.post(f"/v1/fine_tuning/jobs/{tuning.json()['id']}/cancel")
    # Neither a tuning nor a climb, and the other way round.
    assert shop.http.get(f"/v1/rung/climbs/{id}").status_code == 404
    assert id not in [j["id"] for j in shop.http.get("/v1/fine_tuning/jobs").json()["data"]]
    assert [s["id"] for s in shop.http.get(SYNTHESES).json()["data"]] == [id]
    assert shop.http.post(f"{SYNTHESES}/{id}/cancel").status_code == 409
    assert str(home.home()) not in json.dumps([done, said, rows])


def test_a_plan_alone_comes_first(shop):
    settings = {"topics": 1, "kinds": "labels", "labels": ["good", "bad"]}
    asked = order(shop, plan_only=True, topics=None, name="Plan of mine", settings=settings)
    done = until(shop, asked.json()["id"], "succeeded")
    assert len(done["topics"]) == 1 and done["labels"] == ["good", "bad"]
    assert done["training_file"] is None and done["made"] is None and done["name"] == "plan-of-mine"


def test_a_synthesis_is_paused_gone_on_with_and_cancelled(idle):
    id = order(idle).json()["id"]
    for word, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert idle.http.post(f"{SYNTHESES}/{id}/{word}").json()["status"] == status
    assert idle.http.post(f"{SYNTHESES}/{id}/resume").status_code == 409


def test_what_gives_no_row_fails_in_one_line(shop, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_BARREN", 1)
    done = until(shop, order(shop, settings={"kinds": "prompts", "min_words": 30}).json()["id"])
    assert done["status"] == "failed" and done["error"]["code"] == "synthesis_failed"
    assert done["error"]["message"].startswith("no row was good enough: ")


@pytest.mark.parametrize(
    ("said", "param", "words"),
    [
        ({"settings": {"example": 4}}, "settings.example", "did you mean 'examples'"),
        ({"settings": {"documents": "/etc"}}, "settings.documents", "owner of this server"),
        ({"settings": {"plan": "/etc/x"}}, "settings.plan", "owner of this server"),
        ({"settings": {"key_variable": "HOME"}}, "settings.key_variable", "owner of this server"),
        ({"settings": {"seeds": "/etc/passwd"}}, "settings.seeds", "the id of an uploaded file"),
        ({"settings": {"against": "file-0"}}, "settings.against", "no file 'file-0'"),
        ({"settings": {"judge": "x@http://127.0.0.1:9"}}, "settings.judge", "a model of this server"),
        ({"settings": {"teacher": ["http://127.0.0.1:9"]}}, "settings.teacher", "a model of this"),
        ({"settings": {"teacher": ["smollm2-135m"]}}, "settings.teacher", "no model 'smollm2-135m'"),
        ({"settings": {"teacher": ["../x"]}}, "settings.teacher", "no model '../x'"),
        ({"settings": {"teacher": []}}, "settings", "'teacher' needs a model"),
        ({"model": "tiny", "settings": {"teacher": ["tiny"]}}, "model", "both say who writes"),
        ({"model": "tinny"}, "model", "did you mean 'tiny'"),
        ({"settings": {"examples": 10**7}}, "settings", "must be at most 10000"),
        ({"topics": None, "settings": {"topics": 10**7}}, "settings", "at most 400"),
        ({"settings": {"temperature": 3}}, "settings", "'temperature'"),
        ({"settings": {"kinds": "questions"}}, "settings", "'documents'"),
        ({"settings": {"kinds": "lables"}}, "settings", "labels"),
        ({"settings": {"labels": ["a"]}}, "settings", "'labels' are for"),
        ({"settings": {"licence_class": "permissive"}}, "model", "tighter than 'licence_class'"),
        ({"settings": {"kinds": "labels", "labels": ["a", " "]}}, "settings", "an empty label"),
        ({"settings": {"topics": 5}}, "settings.topics", "how many to plan"),
        ({"model": ""}, "model", "no model ''"),
        ({"description": " "}, "description", "'description'"),
        ({"topics": [" "]}, "topics.0", "'topics.0'"),
        ({"plan_only": True}, "plan_only", "'topics' are a plan already"),
    ],
)
def test_a_synthesis_that_cannot_be_is_refused(shop, said, param, words):
    answer = order(shop, **said)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404) and error["param"] == param, error
    assert words in error["message"] and "\n" not in error["message"]


def test_a_teacher_that_must_not_be_trained_on_is_refused_unless_accepted(idle, monkeypatch):
    from rung.artefacts import licences

    monkeypatch.setitem(licences.OUTPUT_TERMS, "unknown", ("forbidden", "not for training"))
    error = order(idle).json()["error"]
    assert "not for training" in error["message"] and "'accept_terms'" in error["message"]
    accepted = order(idle, settings={"accept_terms": True}).json()
    assert idle.http.post(f"{SYNTHESES}/{accepted['id']}/cancel").json()["status"] == "cancelled"


def test_keys_see_the_syntheses_that_they_have_made_and_no_more(idle):
    service = idle.served.app.state.service
    made = {name: service.store.keys.add(name, scopes=["train"]) for name in ("ann", "ben")}
    service.access.refresh()
    try:
        ann, ben = (
            httpx.Client(base_url=idle.served.url, headers={"Authorization": f"Bearer {secret}"})
            for _, secret in made.values()
        )
        id = ann.post(SYNTHESES, json={"description": "Says numbers."}).json()["id"]
        assert [s["id"] for s in ann.get(SYNTHESES).json()["data"]] == [id]
        assert ben.get(SYNTHESES).json()["data"] == []
        assert ben.get(f"{SYNTHESES}/{id}").status_code == 404
        assert ben.get(f"{SYNTHESES}/{id}/events").status_code == 404
        for word in ("pause", "resume", "cancel"):
            assert ben.post(f"{SYNTHESES}/{id}/{word}").status_code == 404
        assert ann.post(f"{SYNTHESES}/{id}/cancel").status_code == 200
    finally:
        for record, _ in made.values():
            service.store.keys.revoke(record.name)
        assert service.store.keys.forget_revoked() == 2  # else nobody is let in without a key
        service.access.refresh()


@pytest.fixture
def spawned(shop, monkeypatch):
    """The workers that begin; the first one is a process of its own where `spawned.real` is set."""
    begun = SimpleNamespace(workers=[], real=False)

    def spawn(job, kind):
        real = begun.real and not begun.workers
        begun.workers.append((shop.spawn if real else as_thread)(job, kind))
        return begun.workers[-1]

    shutil.rmtree(home.folder("cache") / cache.FOLDER, ignore_errors=True)
    monkeypatch.setattr(jobs_supervisor, "_spawn", spawn)
    return begun


def order_some(shop):
    settings = {"examples": 6, "kinds": "prompts", "seed": 7}
    return order(shop, topics=["rain", "keys"], settings=settings).json()["id"]


def test_a_worker_that_dies_leaves_the_same_bytes(shop, spawned, monkeypatch):
    """The first one ends without a word once a wave of answers is kept."""
    write = cache.write

    def last(key, answers):
        write(key, answers)
        if len(spawned.workers) == 1:
            raise SystemExit

    monkeypatch.setattr(cache, "write", last)
    same_bytes(shop, spawned, order_some(shop))


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_worker_leaves_the_same_bytes(shop, spawned, monkeypatch):
    monkeypatch.setattr(kinds_base, "MAX_CHARACTERS", pipeline.MAX_CHARACTERS)  # as in a process
    spawned.real = True
    id = order_some(shop)
    kept, end = home.folder("cache") / cache.FOLDER, time.monotonic() + 120
    while not list(kept.glob("*/*.json")):  # a wave of answers
        assert time.monotonic() < end
        time.sleep(0.01)
    psutil.Process(shop.served.app.state.service.store.jobs.get(id).pid).kill()
    same_bytes(shop, spawned, id)


def same_bytes(shop, spawned, id):
    """A second worker has finished the job, with the rows that one synthesis at a stretch gives."""
    done = until(shop, id, "succeeded")
    assert len(spawned.workers) == 2 and done["rows"] > 0
    content = shop.http.get(f"/v1/files/{done['training_file']}/content").content
    events = shop.http.get(f"{SYNTHESES}/{id}/events", params={"limit": 100}).json()["data"]
    assert any("ended unexpectedly" in event["message"] for event in events)
    assert len({e["message"] for e in events}) == len(events)  # nothing is told twice

    shutil.rmtree(home.folder("cache") / cache.FOLDER)
    job = shop.served.app.state.service.store.jobs.get(id)
    (knobs,) = resolve([SynthKnobs], job.settings["knobs"])
    again = pipeline.synthesise(
        "Says numbers, warmly.", knobs, plan=topics.Plan(("rain", "keys")),
        opener=opener(job.settings["specs"]),
    )  # fmt: skip
    assert writer.text_of(again).encode() == content
