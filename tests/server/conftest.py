"""A live server on loopback, and the official client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.engine.world import engine_of, tiny_llama
from tests.server.working import jobs_in_threads

__all__ = ["jobs_in_threads"]


def serve(engine, tls=None, **settings):
    """An application in a thread, on a free port; `.stop()` drains it as a signal would."""
    from rung.server.app import create_app
    from rung.server.serve import Server, bind

    app, on, up = create_app(engine, **settings), bind("127.0.0.1", 0), threading.Event()
    told: list[int] = []
    server = Server(app, up.set, tls, told.append)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[on])), daemon=True)
    thread.start()
    assert up.wait(20)
    port = on.getsockname()[1]

    def stop():
        server.handle_exit(15, None)
        thread.join(20)
        assert not thread.is_alive()

    return SimpleNamespace(
        url=f"http://127.0.0.1:{port}",
        port=port,
        engine=engine,
        app=app,
        server=server,
        stop=stop,
        told=told,
    )


@pytest.fixture(scope="session")
def live() -> Iterator[SimpleNamespace]:
    served = serve(engine_of(tiny_llama(), max_waiting=64))
    yield served
    served.stop()


@pytest.fixture
def client(live):
    from openai import OpenAI

    with OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def http(live):
    import httpx

    with httpx.Client(base_url=live.url, timeout=20) as made:
        yield made
