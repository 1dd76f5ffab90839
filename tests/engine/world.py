"""A tiny base with adapters of every kind, served side by side."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from tests.models import tiny_adapter, tiny_config
from tests.tokens import tiny_tokenizer

METHODS = ("lora", "prompt_tuning", "prefix_tuning", "last_layers", "full")
NAMES = ("base", *METHODS)


def asked(name: str, ids: Iterable[int], count: int = 6, **decoding: Any) -> Any:
    """A request for so many tokens, none of which ends the answer."""
    from rung.engine import GenerationRequest
    from rung.types import Decoding, Prompt

    return GenerationRequest(
        name, Prompt(tuple(ids)), Decoding(max_tokens=count, **decoding), stop_ids=()
    )


def text(seed: int, length: int) -> list[int]:
    """Random ids of the tiny tokenizer."""
    numbers = random.Random(seed)
    return [numbers.randrange(3, 258) for _ in range(length)]


def tiny_llama(seed: int = 0, **settings: Any) -> Any:
    """A Llama of three layers that speaks the tiny tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    config = tiny_config("llama")
    values = {"vocab_size": len(tiny_tokenizer()), "max_position_embeddings": 512, **settings}
    for name, value in values.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def engine_of(model: Any, methods: tuple[str, ...] = METHODS, **settings: Any) -> Any:
    """An engine that serves `base` and, under each method's name, an adapter of it."""
    from rung.data import Template
    from rung.engine import Engine, ServedModel
    from rung.forward.bank import Bank

    bank = Bank(model)
    template = Template.of(tiny_tokenizer())
    models = {"base": ServedModel("base", -1, template)}
    for i, method in enumerate(methods):
        slot = bank.add(tiny_adapter(bank, method, seed=i))
        models[method] = ServedModel(method, slot, template, root="base", parent="base")
    return Engine(bank, models, **{"memory": 1 << 28, **settings})


def hf_greedy(model: Any, ids: tuple[int, ...], count: int) -> list[int]:
    """What transformers' own generate answers, `count` tokens whatever they are."""
    import torch

    settings = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **settings
        )
    return out[0, len(ids) :].tolist()
