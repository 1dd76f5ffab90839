"""What can be read off a base: size, shape, licence, what it takes in memory."""

from __future__ import annotations

from typing import Any

import torch

from rung import bases
from rung.evals.basecard.subject import Subject
from rung.memory import high_water


def facts(subject: Subject) -> dict[str, Any]:
    """The base's particulars; sizes in weights and bytes, `load_seconds` from local files."""
    config, model = subject.bank.config, subject.bank.model
    held, plain = bases.memory(model)
    parameters = sum(p.numel() for p in model.parameters())
    table = model.get_input_embeddings().weight.numel()
    return {
        "parameters": parameters,
        "in_embeddings": table,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "context": subject.context,
        "architecture": type(model).__name__,
        "chat_template": bool(subject.tokenizer.chat_template),
        "licence": subject.info.licence,
        "licence_class": subject.info.licence_class,
        "organisation": subject.info.organisation,
        "weights_bytes": held,
        "weights_bytes_float32": plain,
        "load_seconds": subject.seconds,
        "batches_as": "trie" if subject.bank.carries_trie else f"padded rows ({subject.bank.why_not})",
    }


def peak_bytes(subject: Subject) -> int:
    """The most memory that was held since loading began: of the process, or on an NVIDIA GPU."""
    if subject.bank.device.type == "cuda":
        return torch.cuda.max_memory_allocated(subject.bank.device)
    return high_water()
