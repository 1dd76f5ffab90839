"""Data at an address: fetched once for each version, bounded, and told in one line where it is not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from rung.data import DataKnobs, load
from rung.data.sources import url
from rung.errors import DataError

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
ROWS = b'{"prompt": "2 + 2", "completion": "4"}\n{"prompt": "2 + 3", "completion": "5"}\n'


class Site(http.server.BaseHTTPRequestHandler):
    """Files by path, each with its tag; counts what is fetched whole."""

    files: dict[str, tuple[bytes, str | None]] = {}
    fetched: list[str] = []
    short = 0  # bytes that are promised and not sent

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.path not in self.files:
            self.send_error(503 if self.path == "/busy.jsonl" else 404)
            return
        content, tag = self.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + self.short))
        if tag is not None:
            self.send_header("ETag", tag)
        self.end_headers()
        if body:
            self.fetched.append(self.path)
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.files, Site.fetched, Site.short = {}, [], 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_for_each_version(site, rung_home):
    Site.files["/sums/rows.jsonl"] = (ROWS, '"one"')
    source = f"{site}/sums/rows.jsonl?raw=1"
    Site.files["/sums/rows.jsonl?raw=1"] = Site.files["/sums/rows.jsonl"]
    assert len(load(DataKnobs(data=source))) == 2
    assert len(load(DataKnobs(data=source))) == 2
    assert len(Site.fetched) == 1
    Site.files["/sums/rows.jsonl?raw=1"] = (ROWS * 2 + ROWS.replace(b"2", b"7"), '"two"')
    assert len(load(DataKnobs(data=source))) == 6
    assert len(Site.fetched) == 2


def test_a_file_without_a_sign_of_its_version_is_fetched_each_time(site, rung_home):
    Site.files["/rows.jsonl"] = (ROWS, None)
    for _ in range(2):
        load(DataKnobs(data=f"{site}/rows.jsonl"))
    assert len(Site.fetched) == 2


def test_a_file_that_breaks_off_is_not_kept(site, rung_home):
    Site.files["/rows.jsonl"], Site.short = (ROWS, '"one"'), 100
    with pytest.raises(DataError, match=r"cannot read 'http://.*rows\.jsonl'"):
        load(DataKnobs(data=f"{site}/rows.jsonl"))
    Site.short = 0
    assert len(load(DataKnobs(data=f"{site}/rows.jsonl"))) == 2


def test_what_cannot_be_fetched_is_told_in_one_line(site, rung_home, monkeypatch):
    with pytest.raises(DataError, match="there is no file at"):
        load(DataKnobs(data=f"{site}/none.jsonl"))
    with pytest.raises(DataError, match="cannot read.*503"):
        load(DataKnobs(data=f"{site}/busy.jsonl"))
    with pytest.raises(DataError, match="cannot read"):
        load(DataKnobs(data="http://127.0.0.1:1/rows.jsonl"))
    Site.files["/rows.exe"] = (ROWS, '"one"')
    with pytest.raises(DataError, match="rows.exe"):
        load(DataKnobs(data=f"{site}/rows.exe"))
    monkeypatch.setattr(url, "MAX_BYTES", 10)
    Site.files["/rows.jsonl"] = (ROWS, '"one"')
    with pytest.raises(DataError, match="has more than"):
        load(DataKnobs(data=f"{site}/rows.jsonl"))
    assert Site.fetched == ["/rows.exe"]


def test_any_file_system_of_fsspec_is_read_alike(rung_home):
    import fsspec

    with fsspec.open("memory://shelf/rows.jsonl", "wb") as out:
        out.write(ROWS)
    assert url.fetched("memory://shelf/rows.jsonl").read_bytes() == ROWS
    with pytest.raises(DataError, match="is a folder"):
        url.fetched("memory://shelf")


def test_a_bucket_without_its_package_says_what_to_install(rung_home, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r"pip install 'rung\[s3\]'"):
        load(DataKnobs(data="s3://bucket/rows.jsonl"))
