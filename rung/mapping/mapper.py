"""A mapper that is kept: the right records, a rung's scorer, its calibration and threshold.

Files beside an adapter's own: `mapper.json`, `mapper.safetensors` and `mapper_records.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rung.errors import ArtefactError
from rung.forward.mapper import Match
from rung.mapping.confidence import Calibration
from rung.mapping.records import MAX_TEXT_CHARACTERS, Record
from rung.mapping.rungs.base import Scorer, State, Tools
from rung.mapping.vectors import Vectors

METHOD = "mapping"  # the method of models that hold a mapper and no adapter
SETTINGS, TENSORS, RECORDS = "mapper.json", "mapper.safetensors", "mapper_records.jsonl"


@dataclass(kw_only=True)
class RecordMapper:
    """Maps single records; see `rung.forward.mapper.Mapper`.

    Attributes:
        rung: whose scorer this is. count: candidates that confidences are computed among.
        known: by left id or name, ids of right records that are right.
    """

    rung: str
    scorer: Scorer
    calibration: Calibration
    threshold: float
    sure: float
    count: int
    encoder: str
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def matches(
        self, bank: Any, model: Any, records: Sequence[tuple[str, str]]
    ) -> list[tuple[Match, ...]]:
        """Find the likeliest right records of each record, each on its own; see `Mapper.matches`."""
        left = [Record(name, name, text[:MAX_TEXT_CHARACTERS]) for name, text in records]
        if self.scorer.asks:
            from rung.mapping.chooser import chooser_of

            self.scorer.chooser = chooser_of(bank, model)
        candidates = self.scorer.top(left, self.count)
        confidences = self.calibration.confidence(candidates)
        return [
            self._ranked(candidates.places[i], confidences[i])
            if (known := self._known(record)) is None
            else known
            for i, record in enumerate(left)
        ]

    def _ranked(self, places: np.ndarray, confidences: np.ndarray) -> tuple[Match, ...]:
        order = np.argsort(-confidences, kind="stable")
        right = self.scorer.right
        return tuple(
            Match(right[int(places[j])].id, right[int(places[j])].name, float(confidences[j]))
            for j in order
        )

    def _known(self, record: Record) -> tuple[Match, ...] | None:
        """What is known of a record, which may be that it is none of these; None where nothing is."""
        if record.id not in self.known:
            return None
        wanted = set(self.known[record.id])
        return tuple(Match(r.id, r.name, 1.0) for r in self.scorer.right if r.id in wanted)

    def write(self, folder: Path) -> None:
        """Write its files into an existing folder."""
        from safetensors.numpy import save_file

        state = self.scorer.state()
        kept = {
            "rung": self.rung, "threshold": self.threshold, "sure": self.sure, "count": self.count,
            "encoder": self.encoder, "calibration": asdict(self.calibration), "state": state.settings,
            "known": {key: list(value) for key, value in self.known.items()},
        }  # fmt: skip
        (folder / SETTINGS).write_text(json.dumps(kept, sort_keys=True) + "\n", encoding="utf-8")
        tensors = {n: np.ascontiguousarray(t, dtype=np.float32) for n, t in state.tensors.items()}
        save_file(tensors or {"none": np.zeros(1, dtype=np.float32)}, folder / TENSORS)
        with (folder / RECORDS).open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps([r.id, r.name, r.text], ensure_ascii=False) + "\n" for r in self.scorer.right
            )


def there(folder: Path) -> bool:
    """Whether a folder holds a mapper."""
    return (folder / SETTINGS).exists()


def read(folder: Path) -> RecordMapper:
    """Read what `RecordMapper.write` wrote.

    Raises:
        ArtefactError: naming the file that is missing or damaged, or for an encoder that has changed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from rung.mapping import rungs

    try:
        said = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        # Only this ends a line: a record may hold U+2028 and its like.
        lines = (folder / RECORDS).read_text(encoding="utf-8").split("\n")
        right = [Record(*(str(cell) for cell in json.loads(line))) for line in lines if line]
        a, b = (float(w) for w in said["calibration"]["weights"])
        bias, fitted = float(said["calibration"]["bias"]), bool(said["calibration"]["fitted"])
        tools = Tools(Vectors(str(said["encoder"])))
        rung = rungs.get(str(said["rung"]))
        scorer = rung.restore(right, State(dict(said["state"]), tensors), tools)
        return RecordMapper(
            rung=rung.name, scorer=scorer, calibration=Calibration((a, b), bias, fitted),
            threshold=float(said["threshold"]), sure=float(said["sure"]), count=int(said["count"]),
            encoder=str(said["encoder"]), known={str(k): list(v) for k, v in said["known"].items()},
        )  # fmt: skip
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as fault:
        raise ArtefactError(f"{folder.name}: the mapper's files are damaged ({fault})") from None
