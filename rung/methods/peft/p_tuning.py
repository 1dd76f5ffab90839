"""P-tuning (arXiv 2103.10385): virtual tokens from a small network, of which PEFT keeps the vectors."""

from __future__ import annotations

from rung.methods.peft import prompt_tuning


class Kind(prompt_tuning.Kind):
    peft_type = "P_TUNING"
    passed = frozenset(
        {
            "encoder_reparameterization_type",
            "encoder_hidden_size",
            "encoder_num_layers",
            "encoder_dropout",
        }
    )
