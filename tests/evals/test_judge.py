"""The judge, against a small OpenAI-compatible server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rung.errors import ConfigError
from rung.evals.judge import Judge, JudgeFault

ASKED = [({"role": "user", "content": "Say something"},)]


class Handler(BaseHTTPRequestHandler):
    """Prefers the longer answer; names of models change that, or how it is said."""

    asked: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        text = body["messages"][0]["content"]
        first, second = (
            text.split("[Answer 1]\n")[1].split("\n\nReply with")[0].split("\n\n[Answer 2]\n")
        )
        better, worse = (1, 2) if len(first) > len(second) else (2, 1)
        verdict = {
            "first": "1", "mute": "I cannot say.",
            "wordy": f"Answer {better} is better than Answer {worse}.",
            "reasons behind": f"**{better}**\n\nAnswer {worse} is shorter.",
            "reasons before": f"Answer {worse} is shorter.\n{better}.",
            "torn": f"{better}\n{worse}",
        }.get(body["model"], f"Answer: {better}")  # fmt: skip
        status = 400 if body["model"] == "broken" else 200
        message = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": verdict},
        }
        out = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [message]}
        data = json.dumps(out if status == 200 else {"error": {"message": "no such model"}}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_a_preference_must_survive_the_swap(address):
    asked = ASKED * 4
    first, second = ["long answer", "x", "same", "long"], ["short", "longer", "same", "tiny"]
    seen = []
    found = Judge.at(address, "fair").compare(
        asked, first, second, lambda done, n: seen.append((done, n))
    )
    assert found == [1.0, 0.0, 0.5, 0.5] and seen[-1] == (4, 4)
    assert Judge.at(address, "first").compare(asked, first, second) == [0.5] * 4
    assert Judge.at(address, "mute").compare(asked, first, second) == [0.5] * 4
    assert "user: Say something" in Handler.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("wordy", 0.5), ("torn", 0.5), ("reasons behind", 1.0), ("reasons before", 1.0)],
)
def test_a_reply_that_names_both_answers_counts_by_the_line_of_its_own(address, model, expected):
    judge = Judge.at(address, model)
    assert judge.compare(ASKED, ["long answer"], ["short"]) == [expected]
    assert judge.compare(ASKED, ["short"], ["long answer"]) == [1 - expected]


def test_a_judge_that_fails_is_named(address):
    with pytest.raises(JudgeFault, match="'broken' did not answer.*no such model"):
        Judge.at(address, "broken").compare(ASKED, ["a"], ["b"])
    with pytest.raises(ConfigError, match="must begin with http"):
        Judge.at("localhost:8000", "x")
