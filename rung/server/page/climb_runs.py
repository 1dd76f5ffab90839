"""Climbs that were begun on the page: each is a `rung climb` of its own, looked after from here."""

from __future__ import annotations

import contextlib
import platform
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import home
from rung.config import resolve
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.scorecard import flags
from rung.store.climbs import ClimbRecord

if TYPE_CHECKING:
    from rung.server.state import Service

GRACE = 30.0  # seconds that a climb may take to keep what it has
NICE = 10
TAIL = 20_000  # bytes of a log that are shown


@dataclass
class Ascent:
    """A process that climbs. `log` is what it says; `recorded` once the store knows of its climb."""

    name: str
    log: Path
    child: subprocess.Popen = field(repr=False)
    recorded: bool = False

    @property
    def alive(self) -> bool:
        return self.child.poll() is None

    def tail(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log.open("rb") as lines:
            lines.seek(max(0, self.log.stat().st_size - TAIL))
            return lines.read().decode("utf-8", "replace")
        return ""


class Ascents:
    """The climbs of one server's page."""

    def __init__(self, service: Service):
        self.service, self.all = service, list[Ascent]()

    @classmethod
    def of(cls, service: Service) -> Ascents:
        """The service's own, made at first."""
        return next(one for one in service.background if isinstance(one, cls))

    def begin(self, name: str, data: str, settings: dict[str, Any]) -> Ascent:
        """Climb on data with the server's base.

        Args:
            settings: knobs of a climb and of data, as `rung climb` takes them.

        Raises:
            ConfigError: naming every bad setting, or when as many climb already as may.
        """
        from rung.artefacts import folders
        from rung.ladder.bar import Bar
        from rung.ladder.climb import task_name

        name = name or task_name(data)
        folders.model_name(f"{name}-x")
        knobs, _ = resolve([ClimbKnobs, DataKnobs], settings)
        _ = knobs.seconds
        if knobs.bar:
            Bar.parse(knobs.bar)
        given = {**self.service.settings.job_options, **settings, "base": self.service.settings.base}
        words = [f"--name={name}", *(word for k, v in given.items() for word in flags(k, v))]
        return self._spawn(name, [*words, "--", data])

    def resume(self, climb: ClimbRecord) -> Ascent:
        """Go on with an interrupted climb."""
        return self._spawn(climb.name, [f"--resume={climb.id}"])

    def _spawn(self, name: str, words: list[str]) -> Ascent:
        import psutil

        most = self.service.settings.jobs
        if sum(a.alive for a in self.all) >= most:
            told = "a climb is going on already" if most else "this server takes no jobs"
            raise ConfigError(f"{told}: start the server with --jobs {most + 1}, or wait")
        folder, id = home.folder("climbs"), secrets.token_hex(6)
        out = folder / f"{id}.log"
        report = str(folder / f"{id}.html")
        with out.open("ab") as lines:
            child = subprocess.Popen(
                [sys.executable, "-m", "rung.cli", "climb", f"--report={report}", *words],
                stdin=subprocess.DEVNULL, stdout=lines, stderr=lines, start_new_session=True,
            )  # fmt: skip
        with contextlib.suppress(psutil.Error):
            psutil.Process(child.pid).nice(NICE)
        made = Ascent(name, out, child)
        self.all.append(made)
        return made

    def of_climb(self, climb: ClimbRecord) -> Ascent | None:
        """The process of a climb, if it was begun here."""
        return next((a for a in self.all if a.child.pid == climb.pid), None)

    def interrupt(self, climb: ClimbRecord) -> None:
        """Stop a climb that runs on this machine; it keeps what is finished.

        Raises:
            ConfigError: when it runs elsewhere.
        """
        import psutil

        if climb.host != platform.node():
            raise ConfigError(f"climb {climb.id} runs on {climb.host}: stop it there")
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(climb.pid)
            if "climb" in process.cmdline():
                process.send_signal(signal.SIGINT)

    def interrupt_all(self) -> list[Ascent]:
        """Tell all that still climb to keep what they have and end."""
        going = [a for a in self.all if a.alive]
        for ascent in going:
            ascent.child.send_signal(signal.SIGINT)
        return going

    def stop(self) -> None:
        """Interrupt all of them, and wait until they have kept what they have."""
        going = self.interrupt_all()
        end = time.monotonic() + GRACE
        for ascent in going:
            with contextlib.suppress(subprocess.TimeoutExpired):
                ascent.child.wait(max(0.1, end - time.monotonic()))
            if ascent.alive:
                ascent.child.kill()
