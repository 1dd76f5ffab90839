"""Pushing to a local stand-in of the Hub, which checks cards as the Hub does."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from huggingface_hub import HfApi

from rung.artefacts import folders, hub
from rung.artefacts.cards import Card, write_card
from rung.errors import ConfigError, StoreError


class Hub(BaseHTTPRequestHandler):
    """The calls of an upload; `server.files` is what was committed."""

    def log_message(self, *_):
        pass

    def _answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer good":
            return self._answer({"error": "no"}, 401)
        return self._answer(
            {"name": "me", "type": "user", "orgs": [], "sha": "0" * 40, "id": "me/coach"}
        )

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer good":
            return self._answer({"error": "no"}, 401)
        if self.path.endswith("/repos/create"):
            return self._answer({"url": f"http://{self.headers['Host']}/me/coach"})
        if self.path.endswith("/validate-yaml"):
            return self._answer({"errors": faults(json.loads(body)["content"]), "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self._answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                self.server.files[value["path"]] = base64.b64decode(value["content"])
        return self._answer(
            {
                "commitUrl": "https://huggingface.co/me/coach/commit/1",
                "commitOid": "1" * 40,
                "hookOutput": "",
            }
        )


def faults(card):
    """What the Hub refuses in a card's front matter."""
    front = yaml.safe_load(card.split("---")[1])
    told = [(key, one) for key in ("base_model", "datasets") for one in _listed(front.get(key, []))]
    return [{"message": f"{k}: {one} is no id"} for k, one in told if one.count("/") != 1 or ":" in one]


def _listed(value):
    return value if isinstance(value, list) else [value]


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    made.files = {}
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()


def api(server, token="good"):
    return HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=token)


@pytest.mark.parametrize("spec", ["wheel:package/model.gguf", "/home/me/base", "org/smol"])
def test_a_model_is_pushed_with_a_card_that_the_hub_takes(server, spec, tmp_path):
    folder = tmp_path / "coach"

    def fill(new):
        write_card(new, Card("coach", spec, "lora", base_name="smol"))
        told = {"base": {"spec": spec}, "settings": {"data": "/home/me/rows.csv", "lr": 0.1}}
        (new / "rung.json").write_text(json.dumps(told))

    folders.write(folder, fill)
    address = hub.push(folder, "me/coach", api=api(server))
    assert address.endswith("me/coach")
    assert set(server.files) >= {"README.md", "rung.json"} and "manifest.json" not in server.files
    assert all(b"/home/" not in content for content in server.files.values())
    assert (b"base_model: org/smol" in server.files["README.md"]) == (spec == "org/smol")


def test_who_may_not_push_is_told_before_training(server):
    hub.require_access(api(server))
    with pytest.raises(ConfigError, match="hf auth login"):
        hub.require_access(api(server, "bad"))
    server.shutdown()
    server.server_close()
    with pytest.raises((ConfigError, StoreError)):
        hub.require_access(api(server))
