"""What people would use in place of a climb, on the climb's own split and in the same time.

TF-IDF with logistic regression runs here; SetFit and AutoGluon in an environment of their own, which
`make bench/.peers-text/.stamp` makes. Where that is missing, they are left out and it is said how to
have them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / "bench" / ".peers-text" / "bin" / "python"
SCRIPTS = {"SetFit": "text_setfit.py", "AutoGluon": "text_autogluon.py"}
ENCODER = "minilm"  # the climb's own
GRACE = 1.5  # times the budget, after which a peer is ended


@dataclass(frozen=True)
class Peer:
    """What a peer came to on the test rows; `value` is None where it could not be run."""

    name: str
    value: float | None
    low: float = 0.0
    high: float = 0.0
    seconds: float = 0.0
    note: str = ""

    @property
    def told(self) -> str:
        if self.value is None:
            return f"{self.name}: {self.note}"
        return f"{self.name} {self.value:.3f} in {self.seconds:.0f} s{self.note and f' ({self.note})'}"


@dataclass(frozen=True)
class Texts:
    """A task as texts and labels, split as the climb splits it.

    Attributes:
        splits: of Rung's own examples. task: as Rung found it.
    """

    splits: Any
    task: Any

    @classmethod
    def read(cls, source: str, limit: int | None) -> Texts:
        """Read the data as a climb does."""
        from rung import data
        from rung.config import resolve
        from rung.data.knobs import DataKnobs
        from rung.evals.tasks import detect

        (knobs,) = resolve([DataKnobs], {"data": source, "limit": limit})
        splits = data.split(data.load(knobs), knobs)
        return cls(splits, detect(splits.train))

    @property
    def classified(self) -> bool:
        return self.task.kind == "classification"

    def part(self, name: str) -> tuple[list[str], list[str]]:
        """(texts, labels) of train, validation or test."""
        from rung.evals.tasks import question, reply

        rows = dict(self.splits)[name]
        texts = ["\n".join(m["content"] for m in question(e)) for e in rows]
        return texts, [reply(e) or "" for e in rows]

    def judged(self, answers: Sequence[str]) -> tuple[float, float, float]:
        """(figure, low, high) of answers to the test rows, by the climb's metric."""
        from rung.evals.answers import Answers
        from rung.evals.measure import measure

        found = measure(Answers(list(answers)), self.splits.test, self.task)
        return found.value, found.low, found.high


def tfidf(texts: Texts) -> Peer:
    """Words and characters through TF-IDF and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    began = time.perf_counter()
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=50_000),
    )
    fitted = make_pipeline(union, LogisticRegression(C=10, max_iter=300))
    fitted.fit(*texts.part("train"))
    said = fitted.predict(texts.part("test")[0])
    return Peer("TF-IDF", *texts.judged(said), time.perf_counter() - began)


def outside(name: str, texts: Texts, seconds: float, log: Path) -> Peer:
    """SetFit or AutoGluon, in a process that is ended after `GRACE` times its seconds."""
    if not PYTHON.exists():
        return Peer(name, None, note="not installed: make bench/.peers-text/.stamp")
    from rung.bases import encoder

    with tempfile.TemporaryDirectory(prefix="rung-peer-") as folder:
        job, result = Path(folder) / "job.json", Path(folder) / "result.json"
        rows = {
            p: dict(zip(("texts", "labels"), texts.part(p), strict=True)) for p in ("train", "test")
        }
        job.write_text(json.dumps({
            **rows, "labels": list(texts.task.labels), "seconds": seconds,
            "encoder": str(encoder.resolve(ENCODER)), "folder": str(Path(folder) / "made"),
        }))  # fmt: skip
        quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
                 "HF_HUB_OFFLINE": "1"}  # fmt: skip
        # Without the scripts' own folder on the path: one of them is called as a package is.
        command = [
            str(PYTHON),
            "-P",
            str(ROOT / "bench" / "peers" / SCRIPTS[name]),
            str(job),
            str(result),
        ]
        try:
            with log.open("w") as out:
                done = subprocess.run(
                    command, stdout=out, stderr=out, env=os.environ | quiet, timeout=GRACE * seconds
                )
        except subprocess.TimeoutExpired:
            return Peer(name, None, note=f"not done within {GRACE * seconds:.0f} s")
        if done.returncode:
            last = (log.read_text().splitlines() or ["nothing was said"])[-1]
            return Peer(name, None, note=f"failed ({last[:100]}), see {log}")
        kept = json.loads(result.read_text())
        return Peer(name, *texts.judged(kept["answers"]), kept["seconds"], kept["note"])


def peers(texts: Texts, seconds: float, logs: Path, label: str) -> list[Peer]:
    """All of them on a task of classification; none where answers are open."""
    if not texts.classified:
        return []
    found = [outside(name, texts, seconds, logs / f"peer-{name}-{label}.log") for name in SCRIPTS]
    return [tfidf(texts), *found]
