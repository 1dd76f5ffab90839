"""What methods on pictures have in common: rows as pictures and labels, costs, and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.errors import MethodMisfit
from rung.evals import kinds
from rung.evals.tasks import question, reply
from rung.methods import base
from rung.methods.workload import Shape, Workload
from rung.types import Example, Picture, Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.picture_bank import PictureBank

BATCH = 32.0  # pictures of a pass


@dataclass(frozen=True)
class Rows:
    """Pictures and their labels, in the order of the pictures' digests."""

    pictures: list[Picture]
    labels: list[str]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Rows:
        """Those that have both; the order is the same for every seed, however the source is sorted."""
        found = []
        for example in sorted(examples, key=lambda e: e.digest):
            shown = [p for m in question(example) for p in m.get("pictures", ())]
            label = reply(example)
            if shown and label is not None:
                found.append((shown[-1], label))
        return cls([p for p, _ in found], [label for _, label in found])


class PictureMethod(base.Method):
    """A method on pictures. It finds its adapter itself, whose classifier answers with a label.

    Args:
        name, config: of the method that it is the variant of.
    """

    Config: ClassVar[type] = object
    trained = False
    classifies = True
    modality = "pictures"

    def __init__(self, name: str, config: type):
        super().__init__(name)
        self.Config = config  # type: ignore[misc]

    def unsuited(self, task: Task, config: Any) -> str | None:
        if not kinds.of(task).labelled:
            return f"it answers with one of a few labels, and this task is {task.kind}"
        return None

    def fit(self, study: base.Study, config: Any) -> base.Fitted:
        train = Rows.of(study.train)
        if len(set(train.labels)) < 2:
            only = f", '{train.labels[0]}'" if train.labels else ""
            raise MethodMisfit(f"{self.name} needs pictures of two labels at least; there is one{only}")
        return self.find(study, config, train, Rows.of(study.validation))

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        """The adapter, of rows that have pictures and two labels at least."""
        raise NotImplementedError

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        pictures = shape.rows + shape.held
        return Workload(read=float(pictures), passes=pictures / BATCH)

    def answering(self, config: Any, shape: Shape) -> Workload:
        return Workload(read=1.0, passes=1 / BATCH)

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        raise MethodMisfit(
            f"{self.name} answers with labels, so it cannot be merged into its encoder: use rung serve"
        )


def bank_of(study: base.Study) -> PictureBank:
    """The study's bank, of a base that reads pictures."""
    from rung.forward.picture_bank import PictureBank

    assert isinstance(study.bank, PictureBank)
    return study.bank


def accuracy(logits: Tensor, labels: Sequence[str], names: Sequence[str]) -> float:
    """The share of rows whose likeliest label is theirs; 0 where there is no row."""
    said = [names[i] for i in logits.argmax(1).tolist()]
    return sum(a == b for a, b in zip(said, labels, strict=True)) / max(len(labels), 1)
