"""What a tuning shows on the terminal: what was prepared, a bar, and what it gave."""

from __future__ import annotations

import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from rung import bases
from rung.cli import plot
from rung.data.problem import counted
from rung.methods import artefact
from rung.train.observers import Observer

if TYPE_CHECKING:
    from rung.train.observers import Outcome, Started, Step, Stop, Validation
    from rung.train.prepare import Prepared


LOG_SECONDS = 30.0  # between two lines where there is no bar
FIRST_LINE = 5.0  # seconds after which the first of them comes: it says how long the rest will take


class _Said(TextColumn):
    """The loss, or the reward where that is what counts, and speed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("{task.fields[said]}", **settings)


def _whole(kind: type) -> Any:
    """A column of the bar that is never cut."""
    return kind(table_column=Column(no_wrap=True))


class Terminal(Observer):
    """Reports to stderr, so that stdout stays free for results."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.bar: Progress | None = None
        self._tokens = self._seconds = 0.0
        self._smooth: float | None = None
        self._shown = "loss"  # the metric that the bar shows
        self._validation = ""
        self._said_at = self._began = 0.0
        self._began_at = 0  # the step that it began at
        self._status = self.console.status("starting")

    def __enter__(self) -> Terminal:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        if self.bar is not None:
            self.bar.stop()

    def stage(self, text: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        self._status.start()
        self._status.update(text)

    def prepared(self, prepared: Prepared) -> None:
        for problem in prepared.problems:
            self._say("warning", Text(problem.message, style="yellow"))

    def started(self, started: Started) -> None:
        prepared, estimate, adapter = started.prepared, started.estimate, started.adapter
        if started.plan.objective.draws:  # a loss of rewards says nothing
            self._shown = started.plan.objective.best[0]
        bank, rows = prepared.bank, prepared.rows
        lengths = sorted(r.tokens for r in rows["train"])
        counts = ", ".join(f"{len(found):,} {part}" for part, found in rows.items())
        carrier = "trie" if bank.carries_trie else f"padded rows ({bank.why_not})"
        dtype = str(bank.dtype).removeprefix("torch.")
        self._say("base", f"{prepared.base.name} in {dtype} on {bank.device}, batches as {carrier}")
        held, plain = bases.memory(bank.model)
        self._say("memory", f"base memory {held / 2**20:.0f} MiB ({held / plain:.2f} of float32)")
        self._say("data", f"{prepared.dataset.name} ({prepared.dataset.format}): {counts} rows of "
                  f"{lengths[len(lengths) // 2]} tokens (median), {lengths[-1]} at most")  # fmt: skip
        self._say("first row", _marked(prepared))
        memory = f"about {estimate.bytes / 2**30:.1f} GiB of memory"
        self._say("trains", f"{adapter.size:,} parameters, {memory}")

    def begin(self, steps: int, at: int) -> None:
        self._status.stop()
        if at:
            self.note(f"going on from step {at} of {steps}")
        self.steps, self._began, self._began_at = steps, time.monotonic(), at
        self._said_at = self._began - LOG_SECONDS + FIRST_LINE
        if not self.console.is_terminal:
            return  # a log file gets a line now and then instead
        # The bar alone gives way where the terminal is narrow.
        self.bar = Progress(
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            *(_whole(kind) for kind in (MofNCompleteColumn, _Said, TimeRemainingColumn)),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            console=self.console, expand=True,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=steps, completed=at, said="")
        self.bar.start()

    def step(self, event: Step) -> None:
        self._tokens += event.tokens
        self._seconds += event.seconds
        last, value = self._smooth, event.metrics[self._shown]
        self._smooth = value if last is None else 0.9 * last + 0.1 * value
        if self.bar is not None:
            self.bar.update(self.task, completed=event.step, said=self._said())
        elif time.monotonic() - self._said_at > LOG_SECONDS:
            self._line(event.step)

    def validated(self, event: Validation) -> Stop | None:
        self._validation = f", validation {event.value:.3f}"
        if self.bar is None and self._smooth is not None:
            self._line(event.step)
        return None

    def _said(self) -> str:
        rate = self._tokens / max(self._seconds, 1e-9)
        return f"{self._shown} {self._smooth:.3f}{self._validation}, {rate:,.0f} tokens/s"

    def _line(self, step: int) -> None:
        self._said_at = time.monotonic()
        pace = (self._said_at - self._began) / max(1, step - self._began_at)
        left = f", {_duration(pace * (self.steps - step))} left at most" if step < self.steps else ""
        self._say("step", f"{step} of {self.steps}: {self._said()}{left}")

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="yellow"))

    def done(self, outcome: Outcome, name: str) -> None:
        metrics, cost = outcome.metrics, outcome.cost
        if self.console.is_terminal:
            for line in plot.draw(plot.loss_of(outcome.run or ""), self.console.width):
                self.console.print(Text(line), no_wrap=True, overflow="crop")
        if f"test_{self._shown}" in metrics:
            before, after = metrics.get(f"test_{self._shown}_of_base"), metrics[f"test_{self._shown}"]
            told = "-" if before is None else f"{before:.3f}"  # where none of its answers was scored
            self._say(f"test {self._shown}"[:10], f"{told} -> {after:.3f} "
                      f"(base -> {name}, {counted(metrics['test_rows'], 'row')})")  # fmt: skip
        kept, last = metrics.get("best_step"), metrics.get("steps")
        if kept and last and kept < last:
            self._say("kept", f"step {kept} of {last}, the best on validation")
        self._say("cost", f"{_duration(cost['seconds'])}, {cost['tokens']:,} tokens, "
                  f"{cost['peak_bytes'] / 2**30:.1f} GiB")  # fmt: skip
        verb = artefact.verb(outcome.model.folder)
        self._say("model", f"{name}: rung {verb} {name}, rung serve {name}")

    def _say(self, head: str, text: str | Text) -> None:
        self.console.print(Text(f"{head:>10}  ", style="bold cyan").append(text), soft_wrap=True)


def _marked(prepared: Prepared) -> Text:
    """The first training row as the model sees it; what it learns to predict stands out."""
    row = prepared.rows["train"][0].sequences[0]
    tokenizer = prepared.template.tokenizer
    text = Text()
    supervised = [False] * len(row) if row.supervised is None else row.supervised.tolist()
    spans = zip(row.ids.tolist(), supervised, strict=True)
    for learned, run in groupby(spans, key=lambda pair: pair[1]):
        piece = tokenizer.decode([token for token, _ in run]).replace("\n", "\\n")
        piece = piece if len(piece) < 160 else f"{piece[:80]} ... {piece[-70:]}"
        text.append(f"⟦{piece}⟧" if learned else piece, style="green" if learned else "dim")
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
