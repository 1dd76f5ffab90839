"""MLflow: settings as parameters, figures by step, what the model was made from as tags.

rung tune coach --data quotes.jsonl --track mlflow
mlflow ui --backend-store-uri sqlite:///$HOME/.rung/mlflow.db

MLFLOW_TRACKING_URI says where; by default it is a database in `RUNG_HOME`. MLflow would choose an
old folder `./mlruns` that holds runs, and then refuse it.
"""

from __future__ import annotations

import os

from rung import home
from rung.trackers import base

EXPERIMENT = "rung"
MAX_VALUE = 6000  # characters of a parameter that MLflow keeps
STATUSES = {"succeeded": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
RUN_ID = "mlflow.id"  # file in the run's folder, by which a run that is resumed goes on


class Tracker(base.Tracker):
    summary = "parameters, figures and lineage for MLflow"
    package = "mlflow"
    install = "rung[mlflow]"

    def open(self, run):
        from mlflow import MlflowClient

        self.step = run.at
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home.home() / 'mlflow.db'}"
        self.client = MlflowClient(where)
        kept = run.folder / RUN_ID
        if run.at and kept.exists():
            self.id = kept.read_text()
            self.client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        known = self.client.get_experiment_by_name(name)
        place = known.experiment_id if known else self.client.create_experiment(name)
        made = self.client.create_run(place, run_name=run.name)
        self.id = made.info.run_id
        kept.write_text(self.id)
        for key, value in sorted(run.settings.items()):
            if value is not None:
                self.client.log_param(self.id, key, str(value)[:MAX_VALUE])
        for key in ("base", "data", "parent", "method", "objective"):
            if run.settings.get(key):
                self.client.set_tag(self.id, f"rung.{key}", str(run.settings[key])[:MAX_VALUE])
        self.client.set_tag(self.id, "rung.run", run.id)

    def log(self, step, figures):
        self.step = step
        for name, value in figures.items():
            self.client.log_metric(self.id, name, value, step=step)

    def close(self, status, figures):
        self.log(self.step, figures)
        self.client.set_terminated(self.id, STATUSES.get(status, "FAILED"))
