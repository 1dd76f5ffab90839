"""Stored models as scorers of conversations: a reward model's score, a classifier's log-probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung import bases
from rung.errors import ConfigError, nearest
from rung.methods import artefact
from rung.rewards.base import Scorer
from rung.store import Store
from rung.types import Decoding, Message, Prompt

if TYPE_CHECKING:
    from rung.data import Template
    from rung.engine import Engine, ServedModel
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

MAX_ASKED_TOKENS = 64  # of an answer of a model that scores by words
MIN_PROBABILITY = 1e-30  # what rounds to 0 still has a logarithm


class Scorers:
    """Loads stored models to score with, each once.

    Args:
        bank: the base in memory; models of another one are loaded beside it.
        device, dtype: of bases that are loaded.
    """

    def __init__(self, bank: Bank | None, device: str = "cpu", dtype: str = "float32"):
        self.bank, self.device, self.dtype = bank, device, dtype
        self._asked: dict[str, tuple[Engine, ServedModel]] = {}
        self._banks: dict[str, Bank] = {} if bank is None else {bank.digest: bank}

    def __call__(self, name: str) -> Scorer:
        """The scorer of `NAME`, or of `NAME/LABEL` for a classifier.

        Raises:
            ModelNotFound: when there is no such model.
            ConfigError: for a model that neither scores nor classifies, or has no such label.
        """
        name, _, label = name.partition("/")
        with Store.open() as store:
            record = store.models.get(name)
            spec = store.bases.get(record.base).spec
        bank = self._bank(record.base, spec)
        folder = Path(record.folder)
        adapter, about = artefact.load(folder, bank)
        template = artefact.template_of(about, _template(folder))
        if adapter.classifier is not None:
            return _classifies(name, adapter, bank, template, label)
        if label:
            raise ConfigError(
                f"'{name}' is no classifier: leave '/{label}' out of model:{name}/{label}"
            )
        return _scores(name, adapter, bank, template)

    def ask(
        self, name: str, conversations: Sequence[Sequence[Message]], sampling: Mapping[str, Any]
    ) -> list[str]:
        """Let a stored model answer conversations, greedily unless `sampling` says otherwise.

        Raises:
            ModelNotFound: when there is no such model.
        """
        from rung.engine import Engine, ServedModel
        from rung.engine.request import GenerationRequest

        if name not in self._asked:
            with Store.open() as store:
                record = store.models.get(name)
                spec = store.bases.get(record.base).spec
            bank, folder = self._bank(record.base, spec), Path(record.folder)
            adapter, about = artefact.load(folder, bank)
            template = artefact.template_of(about, _template(folder))
            model = ServedModel.of(name, bank.add(adapter), template, adapter)
            self._asked[name] = Engine(bank, {name: model}), model
        engine, model = self._asked[name]
        decoding = Decoding(
            max_tokens=int(sampling.get("max_completions_tokens") or MAX_ASKED_TOKENS),
            temperature=float(sampling.get("temperature") or 0.0), seed=int(sampling.get("seed") or 0),
        )  # fmt: skip
        requests = [GenerationRequest(name, model.prompt(list(c)), decoding) for c in conversations]
        return [one.text for one in engine.generate(requests)]

    def _bank(self, digest: str, spec: str) -> Bank:
        if digest not in self._banks:
            from rung.forward.bank import Bank

            loaded = bases.load(bases.resolve(spec), dtype=self.dtype, device=self.device)
            self._banks[digest] = Bank(loaded.model, digest)
        return self._banks[digest]


def _template(folder: Path) -> Template:
    from rung.bases.loaded import quiet, read_tokenizer
    from rung.data import Template

    with quiet():
        return Template.of(read_tokenizer(folder))


def _classifies(name: str, adapter: Adapter, bank: Bank, template: Template, label: str) -> Scorer:
    classifier, slot = adapter.classifier, bank.add(adapter)
    assert classifier is not None
    labels = list(classifier.labels)
    if label not in labels:
        told = nearest(label, labels) if label else f", such as model:{name}/{labels[0]}"
        raise ConfigError(f"'{name}' is a classifier: name the label that is wanted{told}")
    at = labels.index(label)

    def score(conversations: Sequence[tuple[Message, ...]]) -> list[float | None]:
        import torch

        # A classifier reads the question: here the answer that is to be judged.
        asked: list[Message] = [{"role": "user", "content": c[-1]["content"]} for c in conversations]
        prompts = [Prompt(tuple(template.prompt([one])), (one,)) for one in asked]
        with torch.no_grad():
            found = classifier.probabilities(bank, slot, prompts)[:, at]
        return [float(v) for v in found.double().clamp(min=MIN_PROBABILITY).log()]

    return score


def _scores(name: str, adapter: Adapter, bank: Bank, template: Template) -> Scorer:
    """The scorer of a reward model. Raises ConfigError where it is none."""
    from rung.engine import ServedModel
    from rung.engine.reward_model import RewardModel

    slot = bank.add(adapter) if adapter.reward is not None else -1
    model = RewardModel(bank, ServedModel.of(name, slot, template, adapter))

    def score(conversations: Sequence[tuple[Message, ...]]) -> list[float | None]:
        prompts = [conversation[:-1] for conversation in conversations]
        answers = [conversation[-1]["content"] for conversation in conversations]
        return [*model.score(prompts, answers)]

    return score
