"""`rung serve`: models of one base behind an OpenAI-compatible address."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from rung.cli.chat import Base, Device, Dtype, Quantize
from rung.errors import ConfigError

if TYPE_CHECKING:
    from rung.engine import Engine

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to serve, all of one base; or the base's name.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    base: Base = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    quantize: Quantize = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Requests answered at once.")] = 32,
    max_waiting: Annotated[
        int, typer.Option(min=1, max=65536, help="Requests in the queue; beyond it 429.")
    ] = 256,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="For keys and values, such as 4GB or 512MB; two fifths of what is free by default.",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=64, help="Tuning jobs that run at once; 0 takes none.")
    ] = 1,
    organisation: Annotated[
        str, typer.Option(help="Who makes the tuned models: a part of their names.")
    ] = "rung",
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="YAML that says which model has which checks, documents, moderation."
        ),
    ] = None,
    moderation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who judges texts: a classifier of linear_probe, or a function as module:function.",
        ),
    ] = None,
    guard: Annotated[
        list[str] | None,
        typer.Option(help="Judge requests and answers of this model; * for all. May be repeated."),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="RUNG_API_KEY", help="Key that clients must send; may be repeated."),
    ] = None,
    max_body: Annotated[float, typer.Option(min=0.001, help="Megabytes of a request.")] = 8,
    max_file: Annotated[float, typer.Option(min=0.001, help="Megabytes of an uploaded file.")] = 512,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds within which an answer must be finished.")
    ] = None,
    tls_certificate: Annotated[
        str | None, typer.Option(metavar="PATH", help="Serve HTTPS with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option(metavar="PATH", help="The certificate's private key (PEM).")
    ] = None,
    page: Annotated[bool, typer.Option(help="Show the page for browsers at /.")] = True,
    log: Annotated[bool, typer.Option(help="Write a JSON line for each request to stderr.")] = False,
) -> None:
    """Serve models under OpenAI's API, from one base in memory.

    The bare base is served beside them. Ctrl-C finishes what is being answered; a second one aborts.
    """
    from rung.server.serve import bind

    keys = tuple(key for key in api_key or [] if key)
    if (tls_certificate is None) != (tls_key is None):
        raise ConfigError("--tls-certificate and --tls-key belong together: give both")
    if guard and moderation is None:
        raise ConfigError("--guard needs --moderation NAME, the classifier that judges")
    room = None if memory is None else _bytes(memory)
    tls = (tls_certificate, tls_key) if tls_certificate and tls_key else None
    with bind(host, port) as taken:  # before the base is loaded, so that a busy port is told at once
        from rich.console import Console

        from rung.models import load
        from rung.server.app import create_app
        from rung.server.serve import run
        from rung.server.stages import judge_of, named_judges, read
        from rung.server.state import Limits, Settings

        around = read(stages) if stages else {}
        judge = judge_of(moderation)
        with Console(stderr=True).status("loading"):
            judges = [*named_judges(around), *([judge] if isinstance(judge, str) else [])]
            wanted = [*(names or []), *judges]
            loaded = load(
                wanted, base=base, dtype=dtype, device=device, quantize=quantize,
                max_batch=max_batch, max_waiting=max_waiting, memory=room,
            )  # fmt: skip
        for name in {*around, *(guard or ())} - {"*", *loaded.engine.models}:
            typer.echo(f"rung: stages are set for '{name}', which is not served yet", err=True)
        limits = Limits(int(max_body * 1e6), int(max_file * 1e6), timeout)
        options = {"device": loaded.engine.bank.device.type}
        settings = Settings(
            loaded.base.spec, organisation, jobs, options, keys, frozenset(guard or ()), log, around
        )
        app = create_app(loaded.engine, limits=limits, settings=settings, moderation=judge, page=page)
        locked = bool(keys) or bool(app.state.service.store.keys.list())
        if host not in LOOPBACK and not locked:
            typer.echo(f"rung: anybody who reaches {host} can ask: set --api-key", err=True)
        scheme = "https" if tls else "http"
        address = f"{scheme}://{_shown(host)}:{taken.getsockname()[1]}"
        if log:
            _log_requests()
        shown = page and app.state.page.installed
        run(app, taken, lambda: typer.echo(_greeting(loaded.engine, address, locked, shown)), tls)


def _bytes(size: str) -> int:
    """A size in words, such as 4GB, as bytes. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(B|KB|MB|GB|TB)?", size.strip(), re.IGNORECASE)
    if not found:
        raise ConfigError(f"--memory is '{size}': give a size such as 4GB or 512MB")
    return int(float(found[1]) * UNITS[(found[2] or "B").upper()])


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
