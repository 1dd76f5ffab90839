"""A model behind any OpenAI-compatible API, fine-tuned there first with `--fine-tune`.

So a closed model is one more rung, measured on the same rows, with its price. It stands beside a local
base, whose template counts what a prompt takes; nothing of the base answers. The key is read from the
environment when the model is asked and is kept nowhere. Labels are chosen by the first token's
log-probabilities where the server tells them, else read out of the answer.

    rung tune NAME --method remote --url http://localhost:8000/v1 --remote-model small --data ...
    rung tune NAME --method remote --url https://... --remote-model small --fine-tune --data ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.turns import plain
from rung.errors import ArtefactError, ConfigError, MethodMisfit
from rung.methods import base
from rung.methods.workload import Shape, Workload
from rung.types import Decoding, Example, Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.remote.openai import OpenAIApi

KEPT = ("url", "model", "key_variable", "price_in", "price_out", "at_once", "timeout")


@dataclass
class Knobs:
    group: ClassVar[str] = "remote"
    url: str | None = knob(None, "The API's address, such as http://localhost:8000/v1.")
    remote_model: str | None = knob(None, "What the model is called there.")
    fine_tune: bool = knob(False, "Fine-tune it there first: upload the rows, run a job, follow it.")
    remote_epochs: int | None = knob(
        None, "Passes over the rows in that job; the server's choice by default.", least=1
    )
    suffix: str | None = knob(None, "A word for the name of the model that the job makes.")
    key_variable: str = knob("OPENAI_API_KEY", "The environment variable that holds the key.")
    price_in: float = knob(0.0, "Price of a million tokens read.", least=0)
    price_out: float = knob(0.0, "Price of a million tokens written.", least=0)
    price_training: float = knob(0.0, "Price of a million tokens trained on.", least=0)
    at_once: int = knob(8, "Requests on their way together.", least=1, most=256)
    timeout: float = knob(120.0, "Seconds for one answer.", above=0)


class Method(base.Method):
    summary = "a model behind an OpenAI-compatible API, asked or fine-tuned there"
    Config = Knobs
    trained = False
    weightless = True

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        return None if config.url and config.remote_model else "it needs --url and --remote-model"

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        from rung.evals import metrics

        if metrics.by_likelihood(task):
            return "an API does not say how likely a given text is"
        if not config.url or not config.remote_model:
            return "it needs --url and --remote-model"
        return None

    def reads(self, config: Knobs, train: int, validation: int) -> tuple[int, int]:
        return (train, validation) if config.fine_tune else (0, 0)

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        return Workload()  # what the other side takes is found out by asking it

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter
        from rung.remote import finetune

        refused = self.unsuited(study.task, config)
        if refused:
            raise MethodMisfit(f"{self.name} does not suit this data: {refused}")
        api, metrics = _api(config), {}
        if config.fine_tune:
            tuned = finetune.tune(api, _plain(study), config.remote_epochs, config.suffix)
            api.model = tuned.model
            metrics = {
                "job": tuned.job,
                "trained_tokens": tuned.trained_tokens,
                "training_money": tuned.trained_tokens * config.price_training / 1e6,
            }
        said = api.ask(({"role": "user", "content": "Hello"},), Decoding(max_tokens=1))
        study.note(f"'{api.model}' answers at {api.url}")
        if not said.prompt_tokens and (config.price_in or config.price_out):
            study.note("it does not say how many tokens it counts: prices cannot be applied")
        return base.Fitted(Adapter(remote=api), {"remote_model": api.model, **metrics})

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        api: Any = adapter.remote
        return {name: getattr(api, name) for name in KEPT}, {}

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.remote.openai import OpenAIApi

        usual = {**asdict(Knobs()), "url": "", "model": ""}
        wrong = [n for n in KEPT if not _like(settings.get(n), usual[n])]
        if wrong or not settings["model"]:
            raise ArtefactError(
                f"settings.json does not hold what {self.name} wrote: {wrong or 'model'}"
            )
        try:
            return Adapter(remote=OpenAIApi(**{n: settings[n] for n in KEPT}))
        except ConfigError as fault:
            raise ArtefactError(f"settings.json: {fault}") from None

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        raise MethodMisfit(f"the weights of {self.name} are not here: serve it with rung serve")


def _plain(study: base.Study) -> base.Study:
    """The study with rows as any server reads them: calls and functions written out."""

    def rows(examples: Sequence[Example]) -> list[Example]:
        return [replace(e, messages=tuple(plain(e.messages, "weight"))) for e in examples]

    return replace(study, train=rows(study.train), validation=rows(study.validation))


def _like(value: Any, plain: Any) -> bool:
    if isinstance(plain, float):
        return type(value) in (int, float) and value >= 0
    return type(value) is type(plain)


def _api(config: Knobs) -> OpenAIApi:
    """Raises ConfigError for an address or a variable's name that is none."""
    from rung.remote.openai import OpenAIApi

    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", config.key_variable):
        raise ConfigError(
            "--key-variable names an environment variable; the key itself is never a flag"
        )
    return OpenAIApi(
        config.url or "", config.remote_model or "", config.key_variable, config.price_in,
        config.price_out, config.at_once, config.timeout,
    )  # fmt: skip
