"""Tiny models with random weights, one for each family that Rung must carry."""

from __future__ import annotations

from typing import Any

VOCABULARY = 97
FAMILIES = (
    "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "mistral", "gpt2", "gpt_neox", "opt",
    "bloom",
)  # fmt: skip


def tiny_config(family: str) -> Any:
    """A config of three layers of width 32; windows are shorter than the tests' sequences."""
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    }  # fmt: skip
    grouped = {**common, "num_key_value_heads": 2}
    wide = {**grouped, "head_dim": 8}
    own = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    builders = {
        "llama": lambda: t.LlamaConfig(**grouped),
        "qwen2": lambda: t.Qwen2Config(**grouped),
        "qwen3": lambda: t.Qwen3Config(**wide),
        "gemma": lambda: t.GemmaConfig(**{**wide, "num_key_value_heads": 1}),
        "gemma2": lambda: t.Gemma2Config(**wide, sliding_window=5),
        "gemma3": lambda: t.Gemma3TextConfig(**wide, sliding_window=5),
        "mistral": lambda: t.MistralConfig(**grouped, sliding_window=5),
        "gpt2": lambda: t.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, **own
        ),
        "gpt_neox": lambda: t.GPTNeoXConfig(**common),
        "opt": lambda: t.OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            ffn_dim=48, max_position_embeddings=128, word_embed_proj_dim=32, **own,
        ),
        "bloom": lambda: t.BloomConfig(
            vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, **own
        ),
    }  # fmt: skip
    return builders[family]()


def tiny_model(family: str = "llama", seed: int = 0) -> Any:
    """A causal language model whose weights are large enough for masks to matter."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def tiny_adapter(bank: Any, method: str, seed: int = 0, **settings: Any) -> Any:
    """A method's adapter, moved away from where it starts so that it changes every answer."""
    import torch

    from rung import methods
    from rung.methods.base import Start

    chosen = methods.get(method)
    small = {"virtual_tokens": 3} if "virtual_tokens" in chosen.Config.__dataclass_fields__ else {}
    config = chosen.Config(**{**small, **settings})
    generator = torch.Generator().manual_seed(seed)
    adapter = chosen.build(bank, config, Start(generator, [(5, 6, 7, 8)]))
    for tensor in adapter.parameters().values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    return adapter
