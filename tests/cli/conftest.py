"""The command line in this process, and a home with two models that tests only read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rung.cli import run
from tests.conftest import _prepare

SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"
FAST = ("--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--steps", "1")

STATUS = ("making a fresh base", "fetching ", "converting ", "loading ")


@dataclass(frozen=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one line of a user's mistake, without the program's name; checks that it is one.

        What was said of long work before it (a base that is fetched or made) does not count.
        """
        said = [line for line in self.err.splitlines() if not line.startswith(STATUS)]
        assert self.code == 2 and not self.out, self
        assert len(said) == 1 and said[0].startswith("rung: "), self.err
        return said[0].removeprefix("rung: ")


Ask = Callable[..., Answer]


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run a command in this process. What any library writes to the terminal counts too."""

    def asked(*arguments: object) -> Answer:
        capfd.readouterr()
        code = run([str(a) for a in arguments])
        return Answer(code, *capfd.readouterr())

    return asked


def pairs(count: int) -> list[str]:
    """JSON lines of prompts and completions."""
    rows = [{"prompt": f"Coach me, {i}.", "completion": f"Try {i} times!"} for i in range(count)]
    return [json.dumps(row) for row in rows]


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data without a fault."""
    path = tmp_path_factory.mktemp("data") / "good.jsonl"
    path.write_text("\n".join(pairs(30)))
    return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, good: Path) -> Iterator[Path]:
    """A home with the model `coach`, its child `kid`, and their runs."""
    with pytest.MonkeyPatch.context() as patch:
        home = _prepare(tmp_path_factory.mktemp("studio") / "home")
        patch.setenv("RUNG_HOME", str(home))
        assert run(["tune", "coach", "--data", str(good), *FAST]) == 0
        assert run(["tune", "kid", "--data", str(good), "--parent", "coach", *FAST]) == 0
        yield home
