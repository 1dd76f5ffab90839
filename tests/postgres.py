"""A PostgreSQL server for tests: RUNG_TEST_POSTGRES holds the URL of one, or one is started here."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIVEN = os.environ.get("RUNG_TEST_POSTGRES")
START_SECONDS = 30.0
LOOPBACK = "127.0.0.1"


def programs() -> Path | None:
    """The folder of initdb and postgres; Debian keeps them outside PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += [Path(p) for p in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next((p for p in places if (p / "initdb").exists() and (p / "postgres").exists()), None)


AVAILABLE = bool(GIVEN) or programs() is not None


@contextmanager
def serving(host: str = LOOPBACK) -> Iterator[str]:
    """The URL of a server's database, of the given one or of one that ends with this block.

    Args:
        host: the address of this machine at which it listens; those of its network may come in.
    """
    if GIVEN and host == LOOPBACK:
        yield GIVEN
        return
    where = programs()
    assert where is not None
    # The server refuses to run as root, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="rung-pg-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", _free_port()
    try:
        made = ["initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]
        _run(where, made, user)
        with (data / "pg_hba.conf").open("a") as allowed:
            allowed.write("host all all samenet trust\n")
        settings = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60"]
        command = [
            str(where / "postgres"), "-D", str(data), "-k", str(folder), "-p", str(port),
            "-h", host, *[part for s in settings for part in ("-c", s)],
        ]  # fmt: skip
        log = (folder / "log").open("wb")
        server = subprocess.Popen(command, user=user, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(host, port, server, folder / "log")
            yield f"postgresql://postgres@{host}:{port}/postgres"
        finally:
            server.terminate()  # sessions that are still open end on the second signal
            try:
                server.wait(2)
            except subprocess.TimeoutExpired:
                server.send_signal(3)
                server.wait(20)
            log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(where: Path, command: list[str], user: str | None) -> None:
    full = [str(where / command[0]), *command[1:]]
    done = subprocess.run(full, user=user, capture_output=True, text=True, cwd="/tmp")
    assert done.returncode == 0, done.stdout + done.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(host: str, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        try:
            psycopg.connect(f"host={host} port={port} user=postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the test's PostgreSQL did not answer in {START_SECONDS:g} s")
