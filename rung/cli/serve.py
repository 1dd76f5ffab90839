"""`rung serve`: models of one base behind an OpenAI-compatible address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rung.cli.chat import Base, Device, Dtype

if TYPE_CHECKING:
    from rung.engine import Engine

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to serve, all of one base; or the base's name.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    base: Base = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Requests answered at once.")] = 32,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="RUNG_API_KEY", help="Key that clients must send; may be repeated."),
    ] = None,
) -> None:
    """Serve models under OpenAI's API, from one base in memory.

    The bare base is served beside them. Ctrl-C finishes what is being answered; a second one aborts.
    """
    from rung.server.run import bind

    keys = [key for key in api_key or [] if key]
    with bind(host, port) as taken:  # before the base is loaded, so that a busy port is told at once
        from rich.console import Console

        from rung.server.app import create_app
        from rung.server.loading import load_engine
        from rung.server.run import run

        with Console(stderr=True).status("loading"):
            engine = load_engine(
                names or [], base=base, dtype=dtype, device=device, max_batch=max_batch
            )
        if host not in LOOPBACK and not keys:
            typer.echo(f"rung: anybody who reaches {host} can ask: set --api-key", err=True)
        address = f"http://{_shown(host)}:{taken.getsockname()[1]}"
        app = create_app(engine, api_keys=keys)
        run(app, taken, lambda: typer.echo(_greeting(engine, address, bool(keys))))


def _shown(host: str) -> str:
    """The host as an address to try it from this machine."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _greeting(engine: Engine, address: str, locked: bool) -> str:
    """The models and two ways to ask one, ready to be pasted."""
    names = sorted(engine.models, key=lambda n: engine.models[n].slot == -1)
    lines = [f"serving at {address}/v1", ""]
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
