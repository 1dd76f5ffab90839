"""Towers: a frozen vision and a frozen text encoder, joined by a projection of each into one space.

Contrastive as CLIP (arXiv 2103.00020), after LiT (arXiv 2111.07991), which trains one tower and locks
the other; here both are locked, so their vectors are computed once. Departs from both: rows of the same
caption or picture count as right answers to each other. Serves vectors of pictures and of texts.

    rung tune NAME --method towers --vision efficientnet-lite0 --text minilm --data captions.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rung import bases
from rung.bases import encoder as encoders
from rung.config import knob
from rung.errors import ArtefactError, MethodMisfit
from rung.methods import base
from rung.methods.workload import Shape, Workload
from rung.types import BaseInfo, Example, Modality, Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

MIN_ROWS = 8  # pictures with captions, to learn from


@dataclass
class Knobs:
    group: ClassVar[str] = "towers"
    vision: str = knob("efficientnet-lite0", "The vision encoder: a base that reads pictures.")
    text_encoder: str = knob("minilm", "The text encoder, also as --text: minilm, a folder, a Hub id.")
    shared_width: int = knob(128, "Numbers of a vector in the shared space.", least=2, most=4096)
    contrastive_steps: int = knob(600, "Steps at most; validation ends it earlier.", least=1)
    contrastive_batch: int = knob(256, "Rows of a step, each told from all the others.", least=2)
    contrastive_lr: float = knob(3e-3, "Learning rate.", above=0)


class Method(base.Method):
    summary = "a frozen vision and a frozen text encoder in one space"
    paper = "arXiv 2103.00020"
    Config = Knobs
    trained = False
    modality = "pictures"
    renamed = {"text": "text_encoder"}

    def on(self, reads: Modality) -> base.Method:
        return self

    def base_spec(self, config: Knobs) -> str | None:
        return config.vision

    def refusal(self, bank: Bank, config: Knobs) -> str | None:
        if bank.reads != "pictures":
            return f"--vision {config.vision} reads {bank.reads}: name an encoder of pictures"
        return None

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        return "it gives vectors, which no metric of a climb measures: use rung tune"

    def further_bases(self, adapter: Adapter) -> list[BaseInfo]:
        return [] if adapter.towers is None else [text_base(adapter.towers.texts)]

    def making(self, config: Knobs, shape: Shape, schedule: base.Schedule) -> Workload:
        pictures = shape.rows + shape.held
        return Workload(read=float(pictures), passes=pictures / 32)

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        import torch

        from rung.forward.adapter import Adapter
        from rung.forward.towers import Towers
        from rung.methods.pictures.contrastive import Training, train

        pictures = _bank(study.bank)
        texts = encoders.load(config.text_encoder)
        rows, held = _rows(study.train), _rows(study.validation)
        if len(rows) < MIN_ROWS:
            raise MethodMisfit(
                f"{len(rows)} pictures with captions are too few: give {MIN_ROWS} at least"
            )
        how = Training(
            width=config.shared_width, steps=config.contrastive_steps, batch=config.contrastive_batch,
            lr=config.contrastive_lr,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(study.seed)
        learnt = _pairs(pictures, texts, rows, study)
        judged = _pairs(pictures, texts, held, study) if len(held) > 1 else None
        tensors, figures = train(learnt, judged, how, generator, study.stopping)
        towers = Towers(pictures, texts, tensors)
        metrics: dict[str, Any] = {**figures, "train_rows": len(rows)}
        told = ""
        if judged is not None:
            found = _recalls(towers, judged)
            metrics |= {"validation_rows": len(held), **found}
            told = " / ".join(f"{found[f'validation_recall_at_5_{way}']:.2f}" for way in WAYS)
            told = f"recall@5 {told}"
            study.note(f"{told} (picture to text / text to picture) of {len(held)} validation rows")
        return base.Fitted(Adapter(towers=towers), metrics, told)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        assert adapter.towers is not None
        texts = adapter.towers.texts
        settings = {
            "text_encoder": {"spec": texts.spec, "digest": texts.digest},
            "preprocessing": _bank(bank).encoder.preprocessing.as_dict(),
        }
        return settings, adapter.towers.tensors

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.towers import Towers

        told, pictures = settings.get("text_encoder", {}), _bank(bank)
        if not told.get("spec"):
            raise ArtefactError("settings.json does not name the text encoder: it is incomplete")
        prepared = json.loads(json.dumps(pictures.encoder.preprocessing.as_dict()))
        if settings.get("preprocessing") != prepared:
            raise ArtefactError(
                "settings.json: this model was made of pictures prepared in another way than its base "
                "prepares them now: use the base it was made from"
            )
        texts = encoders.load(told["spec"])
        if texts.digest != told.get("digest"):
            raise ArtefactError(f"{told['spec']} holds other weights than the model was made with")
        return Adapter(towers=Towers.read(pictures, texts, tensors))


WAYS = ("picture_to_text", "text_to_picture")


def text_base(texts: Any) -> BaseInfo:
    """A text encoder as a base, for the lineage."""
    path = encoders.resolve(texts.spec)
    return replace(bases.standing_alone(texts.spec, path), spec=texts.spec, digest=texts.digest)


def _rows(examples: Sequence[Example]) -> list[tuple[Any, str]]:
    """Pictures and their captions."""
    found = []
    for example in examples:
        shown = [p for m in example.messages for p in m.get("pictures", ())]
        if shown and example.messages[-1]["content"].strip():
            found.append((shown[-1], example.messages[-1]["content"]))
    return found


def _pairs(pictures: Any, texts: Any, rows: list[tuple[Any, str]], study: base.Study) -> Any:
    from rung.methods.pictures.contrastive import Pairs

    seen = pictures.features([p for p, _ in rows], keep=True, stopping=study.stopping)
    said = texts.encode([t for _, t in rows], study.stopping)
    return Pairs.of(seen, said, [t for _, t in rows], [str(p) for p, _ in rows])


def _recalls(towers: Any, pairs: Any) -> dict[str, float]:
    """Recall at 1 and 5 both ways, each with the ends of its interval."""
    from rung.evals.retrieval import recall

    sides = [towers.project("picture", pairs.pictures), towers.project("text", pairs.texts)]
    found: dict[str, float] = {}
    for way, (queries, others) in zip(WAYS, (sides, sides[::-1]), strict=True):
        for one in recall(queries, others, pairs.alike):
            name = f"validation_recall_at_{one.k}_{way}"
            found |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return found


def _bank(bank: Bank) -> Any:
    from rung.forward.picture_bank import PictureBank

    assert isinstance(bank, PictureBank)
    return bank
