"""A red-team run: attack, judge, report; then, if asked, mend and attack again."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.data import DataKnobs, load
from rung.errors import ConfigError
from rung.evals.reply_loss import change, per_token, reply_losses
from rung.redteam import agreement, attacks, judges, mend, plan, report, transforms
from rung.redteam.judges.base import Context, Judge
from rung.redteam.knobs import RedteamKnobs
from rung.redteam.report import Round
from rung.redteam.target import Attempt, Target
from rung.rewards.scorers import Scorers

if TYPE_CHECKING:
    import numpy as np

    from rung.train.observers import Observer

ATTACK_SHARE, TRAIN_SHARE = 0.35, 0.4  # of the budget, where the model is mended
ORDINARY = 64  # rows that helpfulness is measured on

# Told how many conversations of how many are done.
Told = Callable[[int, int], None]


@dataclass(kw_only=True)
class Finished:
    """What a run found.

    Attributes:
        before: the model as it was. after: mended, on the same attempts, the unseen ones first.
        judge_errors: by judge, on human labels; empty where none were given.
        loss: nats per token of ordinary replies before, and the change by mending where there is one.
        changes: by group of `plan.GROUPS`, and `over_refusal` on harmless prompts never trained on.
        interrupted: whether the user stopped it; what was found by then is here.
    """

    before: Round
    after: Round | None = None
    pairs: int = 0
    judge_errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    hits: list[dict[str, Any]] = field(default_factory=list, repr=False)
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report as data, without any text of prompts or answers."""
        return {
            "before": self.before.as_dict(), "after": self.after and self.after.as_dict(),
            "pairs": self.pairs, "changes": self.changes, "judge_errors": self.judge_errors,
            "loss": self.loss, "interrupted": self.interrupted,
        }  # fmt: skip


class Run:
    """One run of `rung redteam`.

    Args:
        loading: `dtype`, `device`, `quantize` of the base.
        told: of the progress. note: told what the user should know, in one line.

    Raises:
        ConfigError, DataError, ModelNotFound: for what cannot be used, before anything is asked.
    """

    def __init__(
        self, name: str, knobs: RedteamKnobs, loading: dict[str, Any], told: Told, replace: bool
    ):
        self.name, self.knobs, self.loading, self.told = name, knobs, loading, told
        self.started = time.monotonic()
        self.budget = knobs.budget.seconds
        self.names = knobs.transforms or transforms.names()
        for one in self.names:
            transforms.get(one)
        self.attacks = attacks.read(knobs.attacks, knobs.limit)
        self.harmless = attacks.read([knobs.harmless]) if knobs.harmless else []
        self.folder = _folder(knobs.out)
        self.mended = knobs.mended or f"{name}-mended"
        if knobs.mend:
            assert self.folder is not None  # the knobs refuse it
            from rung.train.plan import check_name

            check_name(self.mended)
            mend.check_free(self.mended, self.folder, replace)
        self.ordinary = self._ordinary()

    def work(self, observer: Callable[[], Observer] | None = None) -> Finished:
        """Do all of it, within the budget."""
        share = ATTACK_SHARE if self.knobs.mend else 1.0
        target = Target(self.name, self.knobs, self.folder, self.loading)
        self.judges = self._judges(target)
        errors = {}
        if self.knobs.judge_labels:
            errors = agreement.measure(self.judges, self.knobs.judge_labels, self.knobs.labels_are)
        tried = plan.attempts(self.attacks, self.harmless, self.names, self.knobs.seed)
        before_loss = self._losses(target)
        found, interrupted = self._round(target, tried, self.started + share * self.budget)
        finished = Finished(before=found, judge_errors=errors, interrupted=interrupted)
        if before_loss is not None:
            finished.loss = {"before": float(per_token(before_loss.sum(0))), "rows": len(before_loss)}
        if self.folder is not None or not self.knobs.mend:
            run_id = str(uuid.uuid4())
            finished.hits = report.hits(found, self.judges, run_id, self.knobs.system)
        self._keep(finished)
        if self.knobs.mend and not interrupted:
            del target  # the base is loaded again to be trained
            self._mend(finished, before_loss, observer)
            self._keep(finished)
        return finished

    def _mend(
        self, finished: Finished, before_loss: np.ndarray | None,
        observer: Callable[[], Observer] | None,
    ) -> None:  # fmt: skip
        """Train on what the hits teach, attack again, and compare."""
        held = plan.hold_out(self.attacks, self.harmless, self.names, self.knobs.seed)
        rows = mend.pairs(finished.before, held, self.knobs.system)
        left = self.started + self.budget - time.monotonic()
        seconds = min(TRAIN_SHARE * self.budget, 0.6 * left)
        watcher = observer() if observer else None
        mend.train(self.name, self.mended, rows, self.knobs, self.loading, seconds, watcher)
        finished.pairs = len(rows)
        target = Target(self.mended, self.knobs, self.folder, self.loading)
        self.judges = self._judges(target)
        again = [s.answered.attempt for s in finished.before.attacks]
        again.sort(key=lambda a: plan.GROUPS.index(held.group(a)))
        tame = [a.attempt for a in finished.before.harmless if a.attempt.attack.turns in held.harmless]
        deadline = max(self.started + self.budget, time.monotonic() + 0.2 * self.budget)
        after, finished.interrupted = self._round(target, [*tame, *again], deadline)
        finished.after = after
        for group in plan.GROUPS:
            was = [s for s in finished.before.attacks if held.group(s.answered.attempt) == group]
            finished.changes[group] = report.difference(was, after.attacks)
        fresh = {a.attempt for a in after.harmless}
        refused = [a for a in finished.before.harmless if a.attempt in fresh]
        same = Round(model=self.name, judges=(), planned=0, harmless=refused)
        finished.changes["over_refusal"] = {
            "before": same.over_refusal.as_dict(),
            "after": after.over_refusal.as_dict(),
        }
        now = self._losses(target)
        if before_loss is not None and now is not None:
            found = change(before_loss, now)
            finished.loss |= {"after": found.after, "change": [found.low, found.high]}

    def _round(self, target: Target, tried: Sequence[Attempt], deadline: float) -> tuple[Round, bool]:
        """Attack one model; True beside it where the user stopped it."""
        answers, interrupted = [], False
        try:
            for one in target.answer(tried, deadline):
                answers.append(one)
                self.told(len(answers), len(tried))
        except KeyboardInterrupt:
            interrupted = True
        said = [a for a in answers if a.replies]
        hostile = [a for a in said if not a.attempt.harmless]
        return Round(
            model=target.name, judges=[j.spec for j in self.judges], planned=len(tried),
            attacks=report.judged(hostile, self.judges),
            harmless=[a for a in said if a.attempt.harmless],
            too_long=len(answers) - len(said), complete=len(answers) == len(tried),
        ), interrupted  # fmt: skip

    def _judges(self, target: Target) -> list[Judge]:
        scorers = Scorers(target.engine.bank)
        return [judges.configured(s, Context(model=scorers)) for s in self.knobs.judge]

    def _ordinary(self) -> list[Any]:
        if not self.knobs.ordinary:
            return []
        found = [e for e in load(DataKnobs(data=self.knobs.ordinary)).examples if e.messages]
        if not found:
            raise ConfigError(f"--ordinary {self.knobs.ordinary} holds no prompts with replies")
        return found[:ORDINARY]

    def _losses(self, target: Target) -> np.ndarray | None:
        if not self.ordinary:
            return None
        return reply_losses(target.engine.bank, target.engine.model(target.name), self.ordinary)

    def _keep(self, finished: Finished) -> None:
        if self.folder is None:
            return
        report.write(self.folder, report.HITS, finished.hits)
        text = json.dumps(finished.as_dict(), indent=1, ensure_ascii=False)
        (self.folder / report.REPORT).write_text(text + "\n", encoding="utf-8")


def _folder(out: str | None) -> Path | None:
    """The user's folder, made. Raises ConfigError where it cannot be."""
    if not out:
        return None
    folder = Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"--out {out} cannot be made: {fault.strerror}") from None
    return folder
