"""A file `figures.csv` in the run's folder: a line for each figure, for spreadsheets and data frames.

rung tune coach --data quotes.jsonl --track csv
"""

from __future__ import annotations

import csv

from rung.trackers import base

COLUMNS = ("step", "name", "value")


class Tracker(base.Tracker):
    summary = "a table of step, name and value"

    def open(self, run):
        self.step, path = run.at, run.folder / "figures.csv"
        known = []
        if run.at and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                known = [r for r in csv.reader(file) if r[0].isdigit() and int(r[0]) <= run.at]
        self.file = path.open("w", newline="", encoding="utf-8")
        self.table = csv.writer(self.file, lineterminator="\n")
        self.table.writerows([COLUMNS, *known])

    def log(self, step, figures):
        self.step = step
        self.table.writerows((step, name, value) for name, value in figures.items())
        self.file.flush()

    def close(self, status, figures):
        self.log(self.step, figures)
        self.file.close()
