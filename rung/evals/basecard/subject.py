"""The base that is measured: in memory, attached to a bank, with its tokenizer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rung import bases
from rung.data import Template
from rung.engine import Completion, Engine, GenerationRequest, ServedModel
from rung.errors import ConfigError
from rung.evals.scoring import Item
from rung.forward.bank import Bank
from rung.memory import reset_high_water
from rung.types import BaseInfo, Decoding, Prompt

TOGETHER = 32  # answers that are written side by side
MIN_CONTEXT_TOKENS = 64  # tokens of context, without which nothing here can be asked


@dataclass
class Subject:
    """A base under study.

    Attributes:
        seconds: that loading took, once its files were on this machine.
    """

    info: BaseInfo
    bank: Bank
    template: Template
    seconds: float
    dtype: str
    quantize: str = "none"

    @classmethod
    def load(
        cls, spec: str, *, dtype: str = "float32", device: str = "cpu", quantize: str | None = None
    ) -> Subject:
        """Fetch and load a base.

        Raises:
            BaseNotFound: as `bases.resolve` and `bases.load` do. ConfigError: when its context is too
                short to ask it anything.
        """
        info = bases.resolve(spec)
        reset_high_water()  # fetching and converting may take more than the base itself
        began = time.perf_counter()
        loaded = bases.load(info, dtype=dtype, device=device, quantize=quantize)
        bank = Bank(loaded.model)
        seconds = time.perf_counter() - began
        template = Template.of(loaded.tokenizer, generation_config=loaded.model.generation_config)
        kind = str(bank.dtype).removeprefix("torch.")
        subject = cls(info, bank, template, seconds, kind, loaded.quantize)
        if subject.context < MIN_CONTEXT_TOKENS:
            raise ConfigError(
                f"'{info.name}' has a context of {subject.context} tokens: "
                f"measuring takes {MIN_CONTEXT_TOKENS} at least"
            )
        return subject

    @property
    def context(self) -> int:
        """The longest sequence in tokens."""
        return self.bank.context

    @property
    def tokenizer(self) -> Any:
        return self.template.tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text as ids, begun as the base's texts begin in training."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if self.template.adds_bos and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id, *ids]
        return tuple(ids)

    def item(self, prompt: str, answers: Sequence[str]) -> Item:
        """A prompt that each of the answers may follow behind a blank.

        Prompt and answer are encoded together and cut where the prompt ended, since many tokenizers
        write the blank into the answer's first token.
        """
        before = self.encode(prompt)
        found = tuple(self.encode(f"{prompt} {answer}") for answer in answers)
        shared = min(
            next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
            for ids in found
        )
        return Item(before[:shared], tuple(ids[shared:] for ids in found))

    @cached_property
    def engine(self) -> Engine:
        """Set up as for serving; it keeps its own copies of some weights."""
        model = ServedModel.of(self.info.name, -1, self.template)
        engine = Engine(self.bank, {model.name: model}, max_batch=TOGETHER)
        engine.arrange()
        return engine

    def generate(
        self, prompts: Sequence[tuple[int, ...]], decoding: Sequence[Decoding]
    ) -> list[Completion]:
        """Continuations of exactly so many tokens as each decoding says, side by side."""
        return self.engine.generate(
            GenerationRequest(self.info.name, Prompt(ids), how, stop_ids=())
            for ids, how in zip(prompts, decoding, strict=True)
        )
