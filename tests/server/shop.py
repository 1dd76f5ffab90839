"""A server over a tiny base on disk, as `rung serve` makes it: with jobs, files and the store."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.engine.world import tiny_llama
from tests.server.conftest import serve
from tests.tokens import tiny_tokenizer

ROW = {
    "messages": [
        {"role": "user", "content": "Say {n}"},
        {"role": "assistant", "content": "It is {n}."},
    ]
}


def base_folder(path: Path, seed: int = 0, **settings) -> Path:
    tiny_llama(seed, **settings).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def open_shop(base: Path, names=(), **settings):
    """A live server of a base's folder."""
    from rung.models import load
    from rung.server.state import Limits, Settings

    limits = settings.pop("limits", Limits())
    moderation, page = settings.pop("moderation", None), settings.pop("page", False)
    extra = [moderation] if isinstance(moderation, str) else []
    loaded = load([*names, *extra], base=str(base), memory=1 << 28)
    options = {"device": "cpu", "dtype": "float32"}
    made = Settings(**{"base": loaded.base.spec, "job_options": options, "jobs": 2, **settings})
    return serve(loaded.engine, limits=limits, settings=made, moderation=moderation, page=page)


def client_of(served, key: str = "none"):
    from openai import OpenAI

    return OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


def rows(count: int = 12) -> bytes:
    """JSON lines of conversations, each other than the others."""
    line = json.dumps(ROW)
    return "".join(line.replace("{n}", str(i)) + "\n" for i in range(count)).encode()


def upload(client, content: bytes | None = None, name: str = "train.jsonl"):
    return client.files.create(file=(name, content or rows()), purpose="fine-tune")


def wait(client, job, *statuses: str, seconds: float = 90):
    """The job once it has one of these statuses; fails when it ends in another."""
    wanted, end = statuses or ("succeeded",), time.monotonic() + seconds
    while True:
        found = client.fine_tuning.jobs.retrieve(job.id)
        if found.status in wanted:
            return found
        over = found.status in ("succeeded", "failed", "cancelled")
        assert not over and time.monotonic() < end, found.to_json()
        time.sleep(0.1)
