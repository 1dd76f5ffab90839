"""TensorBoard's event files, in the run's folder.

rung tune coach --data quotes.jsonl --track tensorboard
tensorboard --logdir ~/.rung/runs
"""

from __future__ import annotations

from rung.trackers import base

FLUSH_SECONDS = 1  # of figures that a run which is killed takes with it at most


class Tracker(base.Tracker):
    summary = "event files for TensorBoard"
    package = "tensorboardX"
    install = "rung[tensorboard]"

    def open(self, run):
        from tensorboardX import SummaryWriter

        self.step = run.at
        # What was told of steps that are done again is left out by whoever reads.
        purge = run.at + 1 if run.at else None
        # Files are named by the second: one that is resumed at once must not overwrite the last.
        self.writer = SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=purge, filename_suffix=f".{run.at:08d}",
            flush_secs=FLUSH_SECONDS,
        )  # fmt: skip
        rows = "\n".join(f"| {name} | {value} |" for name, value in sorted(run.settings.items()))
        self.writer.add_text("settings", f"| knob | value |\n|---|---|\n{rows}", run.at)

    def log(self, step, figures):
        self.step = step
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self, status, figures):
        self.log(self.step, figures)
        self.writer.add_text("status", status, self.step)
        self.writer.close()
