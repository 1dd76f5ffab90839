"""Climbs as jobs: ordered over HTTP, surviving the end of a server, cancelled, and kept apart."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import httpx
import pytest

from rung.server.climbs import go_on, interrupt, job_of
from rung.store.records import BaseRecord, DatasetRecord
from rung.store.serving import Conflict
from tests.server.shop import base_folder, client_of, open_shop, upload

CLIMBS = "/v1/rung/climbs"
OVER = ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory):
    """A home of the module's own: what climbs leave is not for other tests to find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def base(own_home, tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("climbs") / "tiny")


@pytest.fixture(scope="module")
def shop(base):
    """A server that can be started anew; `shop.served` is the one of now."""
    holder = SimpleNamespace(served=open_shop(base, jobs=1))

    def again():
        holder.served.stop()
        holder.served = open_shop(base, jobs=1)

    holder.again = again
    yield holder
    holder.served.stop()


@pytest.fixture
def file(shop):
    rows = [{"prompt": f"Is {n} even?", "completion": "yes" if n % 2 == 0 else "no"} for n in range(60)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with client_of(shop.served) as client:
        return upload(client, content, "even numbers.jsonl").id


def order(shop, file, **settings):
    settings = {
        "only": ["few_shot", "prompt_tuning"], "budget": "2m", "all": True, "trials": 1,
        "epochs": 1, "batch_size": 8, **settings,
    }  # fmt: skip
    body = {"model": "tiny", "training_file": file, "settings": settings}
    return httpx.post(shop.served.url + CLIMBS, json=body)


def until(shop, id, done, seconds=240):
    end = time.monotonic() + seconds
    while True:
        found = httpx.get(f"{shop.served.url}{CLIMBS}/{id}").json()
        if done(found):
            return found
        assert found["status"] not in OVER and time.monotonic() < end, found
        time.sleep(0.1)


def test_a_climb_survives_the_end_of_the_server(shop, file):
    made = order(shop, file)
    assert made.status_code == 200, made.text
    id = made.json()["id"]
    assert made.json()["name"] == "even-numbers" and made.json()["status"] == "validating_files"

    def one_is_done(climb):
        return any(r["status"] == "succeeded" and r["method"] for r in climb["rungs"] or [])

    begun = until(shop, id, one_is_done)
    shop.again()
    with httpx.Client(base_url=shop.served.url) as http:
        kept = http.get(f"{CLIMBS}/{id}").json()
        assert kept["climb"] == begun["climb"] and kept["status"] in ("running", "succeeded")
    done = until(shop, id, lambda c: c["status"] == "succeeded")
    assert done["climb"] == begun["climb"] and done["verdict"] and done["finished_at"]
    statuses = {r["key"]: r["status"] for r in done["rungs"]}
    assert statuses["base"] == "succeeded" and set(statuses) == {"base", "few_shot", "prompt_tuning"}
    assert all(r["validation"]["n"] > 0 for r in done["rungs"] if r["status"] == "succeeded")
    with httpx.Client(base_url=shop.served.url) as http:
        events = http.get(f"{CLIMBS}/{id}/events", params={"limit": 100}).json()["data"]
        said = [e["message"] for e in reversed(events)]
        assert said[0] == f"Created climb: {id}" and "successfully completed" in said[-1]
        if done["fine_tuned_model"]:
            served = [m["id"] for m in http.get("/v1/models").json()["data"]]
            assert done["fine_tuned_model"] in served
        # A climb is no tuning job, and the other way round.
        assert id not in [j["id"] for j in http.get("/v1/fine_tuning/jobs").json()["data"]]
        assert http.get(f"/v1/fine_tuning/jobs/{id}").status_code == 404
        assert [c["id"] for c in http.get(CLIMBS).json()["data"]] == [id]
        assert http.post(f"{CLIMBS}/{id}/cancel").status_code == 409
    text = json.dumps(done)
    assert "/files/" not in text and "rung.db" not in text


def test_a_climb_is_paused_gone_on_with_and_cancelled(shop, file):
    endless = {"epochs": 10_000, "patience": 0}  # it is not over before it is paused
    id = order(shop, file, **endless).json()["id"]
    until(shop, id, lambda c: c["rungs"])
    with httpx.Client(base_url=f"{shop.served.url}{CLIMBS}/{id}") as http:
        paused = http.post("/pause").json()
        assert paused["status"] == "paused"
        store = shop.served.app.state.service.store
        end = time.monotonic() + 30
        while store.climbs.get(paused["climb"]).status == "running":
            assert time.monotonic() < end
            time.sleep(0.05)
        assert store.climbs.get(paused["climb"]).status == "interrupted"
        assert http.post("/resume").json()["status"] == "queued"
        until(shop, id, lambda c: c["status"] == "running")
        assert http.post("/cancel").json()["status"] == "cancelled"
        end = time.monotonic() + 30
        while store.climbs.get(paused["climb"]).status not in ("cancelled", "succeeded"):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_climb_is_gone_on_with_once_however_often_one_presses(base, rung_home):
    served = open_shop(base, jobs=1)
    try:
        service = served.app.state.service
        for one in service.background:
            one.stop()  # jobs stay as they are
        sources = {"base": BaseRecord("b", "tiny", "tiny"), "data": DatasetRecord("d", "wheat")}
        climb = service.store.climbs.create("wheat", task={}, settings={}, **sources)
        service.store.climbs.update(climb.id, status="interrupted")
        job = go_on(service, climb)
        with pytest.raises(Conflict, match=job.id):
            go_on(service, climb)
        interrupt(service, climb)
        assert job_of(service, climb).status == "paused"
        assert go_on(service, climb).id == job.id
    finally:
        served.stop()


def test_where_the_base_lies_is_said_to_nobody(shop, base):
    ask = {"messages": [{"role": "user", "content": "Is 2 even?"}], "max_tokens": 1}
    with httpx.Client(base_url=shop.served.url) as http:
        listed = http.get("/v1/models")
        unknown = http.post("/v1/chat/completions", json={"model": "qqq", **ask})
        synthesis = {"model": "qqq", "description": "Says a word."}
        lost = http.post("/v1/rung/syntheses", json=synthesis)
        assert (unknown.status_code, lost.status_code) == (404, 404)
        assert "tiny" in listed.text and "tiny" in unknown.text
        assert all(str(base.parent) not in answer.text for answer in (listed, unknown, lost))
        # Who knows the path may ask by it, as whoever serves it does.
        by_path = http.post("/v1/chat/completions", json={"model": str(base), **ask})
        assert by_path.status_code == 200


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"barr": "accuracy=0.8"}, "settings.barr", "did you mean 'bar'"),
        ({"bar": "nonsense"}, "settings", "nonsense"),
        ({"budget": "soon"}, "settings", "'budget'"),
        ({"only": ["lorra"]}, "settings", "lora"),
        ({"epochs": -1}, "settings", "epochs"),
        ({"data": "/etc/passwd"}, "settings.data", "unknown knob"),
        ({"judge": "python:os:getcwd"}, "settings.judge", "'judge' takes one of"),
        ({"judge": "http://127.0.0.1:9/v1"}, "settings.judge", "'judge' takes one of"),
        ({"second_judge": "model:../x"}, "settings.second_judge", "'second_judge' takes one of"),
        ({"cluster": "ray://127.0.0.1:9"}, "settings.cluster", "unknown knob"),
        ({"workers": 64}, "settings.workers", "unknown knob"),
    ],
)
def test_a_climb_that_cannot_be_is_refused(shop, file, settings, param, words):
    answer = order(shop, file, **settings)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and words in error["message"]


def test_a_climb_needs_the_base_and_a_file(shop, file):
    with httpx.Client(base_url=shop.served.url) as http:
        body = {"model": "tiny", "training_file": "file-x"}
        assert http.post(CLIMBS, json=body).json()["error"]["param"] == "training_file"
        assert http.post(CLIMBS, json=body | {"model": "none"}).status_code == 404
        named = body | {"training_file": file, "name": "../x"}
        assert http.post(CLIMBS, json=named).json()["error"]["param"] == "name"


def test_keys_that_train_see_what_they_have_made_and_no_more(base, rung_home):
    """Files, tunings, climbs and their results; a key with `admin` sees all of them."""
    served = open_shop(base, jobs=1)
    try:
        store, access = served.app.state.service.store, served.app.state.service.access
        for one in served.app.state.service.background:
            one.stop()  # jobs stay as they are
        made = {name: store.keys.add(name, scopes=["train"])[1] for name in ("ann", "ben")}
        made["boss"] = store.keys.add("boss")[1]
        access.refresh()
        clients = {
            name: httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {secret}"})
            for name, secret in made.items()
        }
        ann, ben, boss = clients["ann"], clients["ben"], clients["boss"]
        sent = {"file": ("x.jsonl", b'{"prompt": "a", "completion": "b"}\n')}
        file = ann.post("/v1/files", files=sent, data={"purpose": "fine-tune"}).json()["id"]
        body = {"model": "tiny", "training_file": file}
        tunings = "/v1/fine_tuning/jobs"
        ids = {path: ann.post(path, json=body).json()["id"] for path in (tunings, CLIMBS)}
        for path in (tunings, CLIMBS):
            refused = ben.post(path, json=body)
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "training_file"
        for path, id in {"/v1/files": file, **ids}.items():
            for client, found in ((ann, [id]), (ben, []), (boss, [id])):
                seen = [one["id"] for one in client.get(path).json()["data"]]
                assert seen == found if client is not boss else id in seen
                status = 200 if found else 404
                assert client.get(f"{path}/{id}").status_code == status
            for what in {"/v1/files": ("content",)}.get(path, ("events",)):
                assert ben.get(f"{path}/{id}/{what}").status_code == 404
                assert ann.get(f"{path}/{id}/{what}").status_code == 200
        assert ben.get(f"{tunings}/{ids[tunings]}/checkpoints").status_code == 404
        for path, id in ids.items():
            for what in ("pause", "resume", "cancel"):
                assert ben.post(f"{path}/{id}/{what}").status_code == 404
        assert ben.delete(f"/v1/files/{file}").status_code == 404
        assert all(ann.post(f"{path}/{id}/cancel").status_code == 200 for path, id in ids.items())
        assert ann.delete(f"/v1/files/{file}").status_code == 200
    finally:
        served.stop()
