"""`rung serve`: models of one base behind an OpenAI-compatible address."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext as nothing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import resolve
from rung.server.knobs import ServeKnobs

if TYPE_CHECKING:
    from rung.engine import Engine
    from rung.models import Loaded

REPLICA = "RUNG_REPLICA"  # set for a replica's process, which its router announces
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@takes_knobs(panels_of([(ServeKnobs.group, ServeKnobs)]))
def serve(
    given: Given,
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to serve, all of one base; or the base's name.")
    ] = None,
) -> None:
    """Serve models under OpenAI's API, from one base in memory.

    The bare base is served beside them. Ctrl-C finishes what is being answered; a second one aborts.
    """
    keys = {"api_key": os.environ.get("RUNG_API_KEY", "").split()}
    (knobs,) = resolve([ServeKnobs], keys if keys["api_key"] else {}, given)
    from rung.library.status import announced
    from rung.server.serve import bind

    with bind(
        knobs.host, knobs.port
    ) as taken:  # before the base is loaded: a busy port is told at once
        if knobs.replicas > 1 or knobs.cluster:
            _replicated(names or [], given, knobs, taken)
            return
        from rung.server.serve import run

        loaded, app = _application(names or [], knobs)
        locked = bool(knobs.api_key) or app.state.service.store.keys.closed
        _warn(knobs, locked)
        address = _address(knobs, taken)
        if knobs.log:
            _log_requests()
        shown = knobs.page and app.state.page.installed
        greeting = _greeting(loaded.engine, address, locked, shown)
        with (
            announced(address, sorted(loaded.engine.models)) if REPLICA not in os.environ else nothing()
        ):
            run(app, taken, lambda: typer.echo(greeting), knobs.tls, _stopping)


def _stopping(in_flight: int) -> None:
    """Say what Ctrl-C is waiting for, so that nobody takes a drain for a hang."""
    from rung.data.problem import counted

    waiting = (
        f"finishing {counted(in_flight, 'request')}; Ctrl-C again aborts" if in_flight else "stopping"
    )
    typer.echo(waiting, err=True)


def _replicated(
    names: list[str], given: dict[str, Any], knobs: ServeKnobs, taken: socket.socket
) -> None:
    """Serve by several processes of `rung serve`, and a router in front of them."""
    from rung.library.status import announced
    from rung.server.replicas.serve import run
    from rung.store import Store

    with Store.open() as store:
        _warn(knobs, bool(knobs.api_key) or store.keys.closed)
    address = _address(knobs, taken)
    greeting = f"serving at {address}/v1 by {knobs.replicas} replicas"
    with announced(address, names, knobs.replicas):
        run(names, given, knobs, taken, lambda: typer.echo(greeting))


def _warn(knobs: ServeKnobs, locked: bool) -> None:
    if knobs.host not in LOOPBACK and not locked:
        typer.echo(f"rung: anybody who reaches {knobs.host} can ask: set --api-key", err=True)


def _address(knobs: ServeKnobs, taken: socket.socket) -> str:
    scheme = "https" if knobs.tls else "http"
    return f"{scheme}://{_shown(knobs.host)}:{taken.getsockname()[1]}"


def _application(names: list[str], knobs: ServeKnobs) -> tuple[Loaded, Any]:
    """Load the models, and make the application over them."""
    from rich.console import Console

    from rung.models import load
    from rung.server.app import create_app
    from rung.server.stages import judge_of, named_judges, read
    from rung.server.state import Limits, Settings

    around = read(knobs.stages) if knobs.stages else {}
    judge = judge_of(knobs.moderation)
    judges = [*named_judges(around), *([judge] if isinstance(judge, str) else [])]
    with Console(stderr=True).status("loading"):
        loaded = load(
            [*names, *judges], base=knobs.base, dtype=knobs.dtype, device=knobs.device,
            quantize=knobs.quantize, max_batch=knobs.max_batch, max_waiting=knobs.max_waiting,
            short=True, memory=knobs.cache_bytes, tools=knobs.tools,
        )  # fmt: skip
    for name in {*around, *knobs.guard} - {"*", *loaded.engine.models}:
        typer.echo(f"rung: stages are set for '{name}', which is not served yet", err=True)
    options: dict[str, Any] = {"device": loaded.engine.bank.device.type}
    settings = Settings.of(knobs, base=loaded.base.spec, job_options=options, stages=around)
    app = create_app(
        loaded.engine, limits=Limits.of(knobs), settings=settings, moderation=judge, page=knobs.page
    )
    return loaded, app


def _log_requests() -> None:
    """The gate's lines to stderr as they are: each is JSON already."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    requests = logging.getLogger("rung.requests")
    requests.addHandler(handler)
    requests.setLevel(logging.INFO)
    requests.propagate = False


def _shown(host: str) -> str:
    """The host as an address to try it from this machine."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _greeting(engine: Engine, address: str, locked: bool, page: bool) -> str:
    """The models and two ways to ask one, ready to be pasted."""
    names = sorted(engine.models, key=lambda n: engine.models[n].slot == -1)
    lines = [f"serving at {address}/v1", *([f"the page at {address}/"] if page else []), ""]
    for name in names:
        root = engine.models[name].root
        lines.append(f"  {name}" + (f"  (on {root})" if root else "  (base)"))
    key = '  -H "Authorization: Bearer $RUNG_API_KEY" \\\n' if locked else ""
    secret = 'os.environ["RUNG_API_KEY"]' if locked else '"none"'
    lines += [
        "",
        f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' \\",
        f'{key}  -d \'{{"model": "{names[0]}", "messages": '
        '[{"role": "user", "content": "Hello"}]}\'',
        "",
        *(["import os"] if locked else []),
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{address}/v1", api_key={secret})',
        f'print(client.chat.completions.create(model="{names[0]}", messages=['
        '{"role": "user", "content": "Hello"}]).choices[0].message.content)',
        "",
    ]
    return "\n".join(lines)
