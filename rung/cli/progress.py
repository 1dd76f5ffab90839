"""What a tuning shows on the terminal: what was prepared, a bar, and what it gave."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.train.estimate import Estimate
    from rung.train.prepare import Prepared
    from rung.train.result import Outcome


class Terminal:
    """Reports to stderr, so that stdout stays free for results."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None
        self._tokens = self._seconds = 0.0
        self._smooth: float | None = None
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

    def prepared(self, prepared: Prepared, estimate: Estimate, adapter: Adapter) -> None:
        bank, rows = prepared.bank, prepared.rows
        lengths = sorted(len(r.ids) for r in rows["train"])
        counts = ", ".join(f"{len(found):,} {part}" for part, found in rows.items())
        carrier = "trie" if bank.carries_trie else f"padded rows ({bank.why_not})"
        dtype = str(bank.dtype).removeprefix("torch.")
        self._say("base", f"{prepared.base.name} in {dtype} on {bank.device}, batches as {carrier}")
        self._say("data", f"{prepared.dataset.name} ({prepared.dataset.format}): {counts} rows of "
                  f"{lengths[len(lengths) // 2]} tokens (median), {lengths[-1]} at most")  # fmt: skip
        self._say("first row", _marked(prepared))
        self._say("trains", f"{adapter.size:,} parameters, about {estimate.bytes / 2**30:.1f} GiB of "
                  f"memory, {_duration(estimate.seconds)} if no early stop")  # fmt: skip
        for problem in prepared.problems:
            self._say("warning", Text(problem.message, style="yellow"))

    def begin(self, steps: int, at: int) -> None:
        self._status.stop()
        if at:
            self.note(f"going on from step {at} of {steps}")
        self.bar = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=steps, completed=at, said="")
        self.bar.start()
        self._validation = ""

    def step(self, entry: dict[str, Any]) -> None:
        self._tokens += entry["tokens"]
        self._seconds += entry["seconds"]
        last = self._smooth
        self._smooth = entry["loss"] if last is None else 0.9 * last + 0.1 * entry["loss"]
        assert self.bar is not None
        said = (
            f"loss {self._smooth:.3f}{self._validation}, {self._tokens / self._seconds:,.0f} tokens/s"
        )
        self.bar.update(self.task, completed=entry["step"], said=said)

    def validated(self, entry: dict[str, Any]) -> None:
        self._validation = f", validation {entry['validation_loss']:.3f}"

    def note(self, text: str) -> None:
        self.console.print(Text(text, style="yellow"))

    def done(self, outcome: Outcome, name: str) -> None:
        metrics, cost = outcome.metrics, outcome.cost
        if "test_loss" in metrics:
            self._say("test loss", f"{metrics['test_loss_of_base']:.3f} -> {metrics['test_loss']:.3f} "
                      f"(base -> {name}, {metrics['test_rows']} rows)")  # fmt: skip
        self._say("cost", f"{_duration(cost['seconds'])}, {cost['tokens']:,} tokens, "
                  f"{cost['peak_bytes'] / 2**30:.1f} GiB")  # fmt: skip
        self._say("model", f"{name}: rung chat {name}, rung serve {name}")

    def _say(self, head: str, text: str | Text) -> None:
        self.console.print(Text(f"{head:>10}  ", style="bold cyan").append(text), soft_wrap=True)


def _marked(prepared: Prepared) -> Text:
    """The first training row as the model sees it; what it learns to predict stands out."""
    row = prepared.rows["train"][0]
    tokenizer = prepared.template.tokenizer
    text = Text()
    for learned, run in groupby(zip(row.ids, row.supervised, strict=True), key=lambda pair: pair[1]):
        piece = tokenizer.decode([token for token, _ in run]).replace("\n", "\\n")
        piece = piece if len(piece) < 160 else f"{piece[:80]} ... {piece[-70:]}"
        text.append(f"⟦{piece}⟧" if learned else piece, style="green" if learned else "dim")
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
