#!/usr/bin/env bash
# The openai client reads a fine-tuning job's multi grader, in the form that works, as a StringCheckGrader.
#
# Version: openai 3.57.0.
# Behaviour: the service takes a multi grader's `graders` as an object from name to grader (openai-java issue 647,
#   openai-python pull request 3918). The client types that field as one grader. A job that holds the object is
#   read without an error, but what comes back is a StringCheckGrader whose `type` is "multi" and whose `graders`
#   are plain dicts. Nothing is lost: to_dict() gives the very object that the server sent.
# A good guess: a MultiGrader with typed graders; failing that, a validation error.
# Why it matters: isinstance(grader, MultiGrader) is False and isinstance(grader, StringCheckGrader) is True for
#   every such job, and grader.graders["exact"].name is an AttributeError. Look at `.type` and use to_dict(); a
#   server that imitates this API needs no odd form to please the client.
# Seen:
#   class StringCheckGrader, type multi, graders dict of dict
#   the same grader after to_dict(): True
#   with one grader instead: class MultiGrader
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openai==3.57.0
"$work/venv/bin/python" -W ignore - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from openai import OpenAI
from openai.types.graders import MultiGrader, StringCheckGrader

PART = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}
MULTI = {"type": "multi", "name": "both", "calculate_output": "(exact + like) / 2"}
MULTI["graders"] = {"exact": PART, "like": PART | {"name": "like", "operation": "like"}}
ANSWERS = {"documented": MULTI, "single": MULTI | {"graders": PART, "calculate_output": "exact"}}


class Jobs(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        method = {"type": "reinforcement", "reinforcement": {"grader": ANSWERS[name]}}
        job = {"id": name, "object": "fine_tuning.job", "created_at": 0, "model": "tiny", "status": "queued"}
        body = json.dumps(job | {"method": method}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Jobs)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none", max_retries=0)


def grader(name: str) -> object:
    return client.fine_tuning.jobs.retrieve(name).method.reinforcement.grader


found, single = grader("documented"), grader("single")
inner = {type(value).__name__ for value in found.graders.values()}
whole = found.to_dict() == MULTI
held = f"{type(found.graders).__name__} of {', '.join(inner)}"
print(f"class {type(found).__name__}, type {found.type}, graders {held}")
print("the same grader after to_dict():", whole)
print("with one grader instead: class", type(single).__name__)
if not (type(found) is StringCheckGrader and found.type == "multi" and inner == {"dict"}):
    sys.exit("no longer as stated: a StringCheckGrader of type multi that holds dicts")
if not (whole and type(single) is MultiGrader):
    sys.exit("no longer as stated: nothing lost, and a MultiGrader where there is one grader")
PY
