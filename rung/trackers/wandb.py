"""Weights & Biases: settings and figures by step, online or in a folder that `wandb sync` sends later.

rung tune coach --data quotes.jsonl --track wandb
WANDB_MODE=offline rung tune coach --data quotes.jsonl --track wandb

Without an API key it writes offline, into the run's folder, and asks for nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rung.trackers import base

PROJECT = "rung"
HOST = "api.wandb.ai"


class Tracker(base.Tracker):
    summary = "figures for Weights & Biases"
    package = "wandb"
    install = "rung[wandb]"

    def open(self, run):
        import wandb

        self.step = run.at
        # wandb itself refuses a mode that it does not know.
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT, name=run.name, id=run.id,
            dir=str(run.folder), config=dict(run.settings), resume="allow", reinit="create_new",
            mode=mode, settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def log(self, step, figures):
        self.step = step
        self.run.log(dict(figures), step=step)

    def close(self, status, figures):
        self.run.log(dict(figures), step=self.step)
        self.run.summary["status"] = status
        self.run.finish(exit_code=0 if status == "succeeded" else 1)


def _has_key() -> bool:
    """Whether W&B would find a key without asking the terminal for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return HOST in netrc.read_text(encoding="utf-8")
    except OSError:
        return False
