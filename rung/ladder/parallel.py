"""A climb on several workers: the same decisions, taken while other attempts are under way.

The controller's process reads the data, forecasts, decides, keeps the baseline and examines on the test
rows; attempts at all other rungs are the workers'. A rung is tried by one worker at a time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from rung.errors import Interrupted, RungError
from rung.ladder.attempts import attempts_of, request_seconds
from rung.ladder.bar import BASE
from rung.ladder.controller import ClimbController
from rung.ladder.crew import Crew, crew
from rung.ladder.meter import now
from rung.ladder.scheme import BASELINE, Step
from rung.ladder.trial_worker import Answer, Order
from rung.store.records import age

DEATHS = 3  # of workers by one attempt, before it counts as failed
FORSAKEN_SECONDS = 60.0  # without a heartbeat: then nobody on another host goes on with a run


class WorkerLost(RungError):
    """The worker of an attempt died, several times."""

    exit_code = 1


@dataclass
class ParallelClimb(ClimbController):
    """One climb under way on several workers.

    Attributes:
        under_way: by rung, what a worker tries, and when it began. pruned: asked to stop, as a cheaper
            rung clears the bar. deaths: of workers, by attempt.
    """

    under_way: dict[str, tuple[Step, float]] = field(default_factory=dict)
    pruned: set[str] = field(default_factory=set)
    deaths: dict[tuple, int] = field(default_factory=dict)

    def _climb(self) -> None:
        step = self._next()
        while step is not None and step.why == BASELINE:
            self._attempt(step)
            step = self._next()
        if step is None:
            return
        for key in self.records:
            self._free_runs(key)
        self.watcher.stage(f"starting {self.knobs.workers} workers")
        knobs = self.knobs
        with crew(self.bench, knobs.workers, self._worker_bytes(), knobs.cluster) as workers:
            try:
                self._with(workers)
            except (Interrupted, KeyboardInterrupt):
                self.watcher.stage("waiting for workers to write what they have")
                workers.stop(self._stopped)
                raise

    def _with(self, workers: Crew) -> None:
        """Keep workers busy for as long as there is something to try."""
        while True:
            while workers.free and (step := self._next(workers.busy, workers.size)) is not None:
                self._give(workers, step)
            if not workers.busy:
                if workers.free:
                    return
                workers.wait()
                continue
            for key, answer in workers.ended():
                self._take(key, answer)
                self._prune(workers)

    def _give(self, workers: Crew, step: Step) -> None:
        limit, room = self._begin(step)
        workers.give(
            Order(
                rung=self.rungs.get(step.key), record=self.records[step.key], step=step,
                prediction=self.arms.prediction(step.key, step.level), limit=limit, room=room,
                name=self._name(step.key), since=self.record.started,
                machine=self.bench.forecaster.machine, loading=self.loading,
            )
        )  # fmt: skip
        self.under_way[step.key] = step, now()

    def _take(self, key: str, answer: Answer | None) -> None:
        """Note how an attempt ended, and learn from what it took."""
        step, began = self.under_way.pop(key)
        self.working += (now() - began) / self.knobs.workers
        for line in answer.notes if answer else ():
            self.watcher.note(line)
        if answer is None and key not in self.pruned:
            self._lost(step)
        elif answer is None or answer.stopped:
            self._put_back(key)
        elif answer.record is not None:
            self._put(dataclasses.replace(answer.record, status="succeeded", reason=None))
            done = attempts_of(answer.record)[-1]
            method = self.rungs[key].method.name if key in self.rungs else BASE
            counted = self.arms.prediction(key, step.level)
            request = request_seconds(answer.record, done.run)
            self.bench.forecaster.learn(
                key, method, counted, done.making_all(counted.steps), done.answering, request
            )
        elif answer.fault is not None:
            self._failed(step, answer.fault, now() - began)
        self.pruned.discard(key)
        self._note_spent()
        self._settle()

    def _lost(self, step: Step) -> None:
        """A worker died: its attempt is taken up again, from the checkpoint of its run."""
        key = step.key
        self._free_runs(key, gone=True)
        attempt = (key, step.params, step.level)
        self.deaths[attempt] = self.deaths.get(attempt, 0) + 1
        if self.deaths[attempt] >= DEATHS:
            self._failed(step, WorkerLost(f"its worker died {DEATHS} times: lower --workers"), 0.0)
            return
        self.watcher.note(f"the worker that tried {key} is gone: another one takes it up")
        self._put(dataclasses.replace(self._newest(key), status="interrupted"))

    def _put_back(self, key: str) -> None:
        """An attempt that was asked to stop: nobody goes on with it where it is not wanted any more."""
        record = self._newest(key)
        if key not in self.pruned:
            self._put(dataclasses.replace(record, status="interrupted"))
            return
        for run in self.store.runs.list(model=self._name(key), status="interrupted"):
            if run.started >= self.record.started:
                self.store.runs.update(run.id, status="cancelled")
        trials = {name: kept for name, kept in record.trials.items() if name != "now"}
        measured = "validation" in record.metrics
        self._put(
            dataclasses.replace(record, status="succeeded" if measured else "queued", trials=trials)
        )

    def _stopped(self, key: str, answer: Answer | None) -> None:
        """How an attempt ended after Ctrl-C; what was finished in that moment counts."""
        if answer is not None and answer.record is not None:
            self._put(dataclasses.replace(answer.record, status="succeeded", reason=None))
        else:
            self._put(dataclasses.replace(self._newest(key), status="interrupted"))
        self.under_way.pop(key, None)

    def _prune(self, workers: Crew) -> None:
        """Stop attempts at rungs that cost more than one that clears the bar."""
        cleared = self.chooser.cleared
        if cleared is None or self.knobs.all:
            return
        requests = self.knobs.requests
        for key in set(workers.busy) - self.pruned - {BASE}:
            if self.arms.prediction(key).cost.total(requests) >= cleared:
                self.pruned.add(key)
                workers.interrupt(key)

    def _free_runs(self, key: str, gone: bool = False) -> None:
        """Note that nobody is at the runs of a rung any more, so that they go on elsewhere.

        Args:
            gone: whether their process is known to be; else a heartbeat that stopped says so.
        """
        for run in self.store.runs.list(model=self._name(key), status="running"):
            late = age(run.heartbeat) > FORSAKEN_SECONDS
            if run.started >= self.record.started and (gone or late):
                self.store.runs.update(run.id, status="interrupted")

    def _worker_bytes(self) -> int:
        """Memory of a worker: the most that any rung took, or is expected to."""
        expected = [
            max(self.arms.prediction(key).cost.bytes, self.records[key].cost.get("bytes") or 0)
            for key in self.rungs
            if key not in self.arms.misfits
        ]
        return max(expected, default=self.bench.forecaster.resident)
