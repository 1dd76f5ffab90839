#!/usr/bin/env bash
# fsspec says FileNotFoundError, and exists() says False, of a web server that is busy, wants a login or is down.
#
# Version: fsspec 2026.9.0, aiohttp 3.14.5.
# Behaviour: `info`, `open` and `exists` of the http file system turn every status of an error, and a refused
#   connection, into "there is no such file"; the status stands in the error's cause alone. `cat` of the same
#   address raises aiohttp's own error with the status.
# A good guess: FileNotFoundError for 404 and 410, the client's error for all else, alike in all four calls.
# Why it matters: whoever fetches training data or weights with "skip what does not exist" leaves out parts of a
#   data set because a server was busy for a moment, and code that asks exists() before it writes overwrites.
# Seen (exists, info, open, cat):
#   200      True   dict               bytes              bytes
#   404      False  FileNotFoundError  FileNotFoundError  FileNotFoundError
#   401      False  FileNotFoundError  FileNotFoundError  ClientResponseError
#   429      False  FileNotFoundError  FileNotFoundError  ClientResponseError
#   503      False  FileNotFoundError  FileNotFoundError  ClientResponseError
#   refused  False  FileNotFoundError  FileNotFoundError  ClientConnectorError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet fsspec==2026.9.0 aiohttp==3.14.5
cd "$work"
"$work/venv/bin/python" - <<'PY'
import http.server
import socket
import sys
import threading

import fsspec


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"{}")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def said(call) -> str:
    try:
        return str(found) if (found := call()) in (True, False) else type(found).__name__
    except Exception as fault:
        return type(fault).__name__


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
threading.Thread(target=server.serve_forever, daemon=True).start()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    nobody = free.getsockname()[1]
web = fsspec.filesystem("http")
addresses = {str(status): f"http://127.0.0.1:{server.server_port}/{status}" for status in (200, 404, 401, 429, 503)}
seen = {}
for name, address in {**addresses, "refused": f"http://127.0.0.1:{nobody}/200"}.items():
    calls = (web.exists, web.info, lambda at: web.open(at).read(), web.cat)
    seen[name] = [said(lambda call=call: call(address)) for call in calls]
    print(f"{name:8} {seen[name][0]:6} {seen[name][1]:18} {seen[name][2]:18} {seen[name][3]}")
gone = ["False", "FileNotFoundError", "FileNotFoundError"]
stated = {
    "200": ["True", "dict", "bytes", "bytes"],
    "404": [*gone, "FileNotFoundError"],
    "401": [*gone, "ClientResponseError"],
    "429": [*gone, "ClientResponseError"],
    "503": [*gone, "ClientResponseError"],
    "refused": [*gone, "ClientConnectorError"],
}
if seen != stated:
    sys.exit(f"no longer as stated: {stated}")
PY
