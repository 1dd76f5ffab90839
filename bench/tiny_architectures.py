"""Tiny models with random weights, one for every causal architecture that transformers maps.

A configuration is made small by the names of its sizes, whatever the architecture; what needs sizes of
its own stands in `OWN`. What cannot be made says why.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 320
# Whatever a configuration calls it: a size, and the value that makes it small.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "d_model": 32, "n_embd": 32, "intermediate_size": 48,
    "n_positions": 512, "max_position_embeddings": 512,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2,
    "encoder_layers": 2, "num_decoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attention_head_size": 8,
    "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "ffn_dim": 48, "dff": 48, "n_inner": 48,
    "d_inner": 48,
    "ffn_hidden_size": 48, "moe_intermediate_size": 16, "expert_ffn_hidden_size": 16,
    "shared_expert_intermediate_size": 16, "intermediate_size_mlp": 48, "shared_intermediate_size": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "n_shared_experts": 1, "num_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "num_expert_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_n_heads": 2, "index_head_dim": 8, "index_topk": 64,
    "state_size": 8, "mamba_d_state": 8, "ssm_state_size": 8, "mamba_expand": 2, "mamba_d_head": 8,
    "mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_dt_rank": 4, "mamba_chunk_size": 16,
    "chunk_size": 16, "n_groups": 1, "mamba_head_dim": 8, "mamba_num_heads": 8, "lru_width": 32,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "word_embed_proj_dim": 32, "embedding_size": 32, "rotary_dim": 4,
    "attention_window_size": 16, "sliding_window": 16, "local_attention": 16,
    "initializer_range": 0.2, "init_std": 0.2,
    # What multiplies or caps, so that whoever leaves it out shows.
    "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 2.0, "logit_scale": 0.5,
    "residual_multiplier": 0.5, "final_logit_softcapping": 3.0, "logits_soft_cap": 3.0,
    "output_logit_soft_cap": 3.0, "attn_logit_softcapping": 5.0,
}  # fmt: skip
ZERO = ("dropout", "_pdrop", "dropout_prob", "layerdrop", "resid_drop", "attn_drop", "embd_drop")
# Lists with an entry per layer are cut to what the tiny model has.
BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "block_types", "layers_block_type")
KEPT = ("hidden_act", "chunk_size", "window_size", "vocab_size")  # of towers, whose shapes hang on them
ALTERNATING = ["sliding_attention", "full_attention"] * 2
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": None}, "gpt-sw3": {"n_inner": None}, "gpt_bigcode": {"n_inner": None},
    "gptj": {"n_inner": None}, "codegen": {"n_inner": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16,
                "intermediate_size": None},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2},
    "falcon": {"head_dim": None}, "xlstm": {"v_head_dim": None, "num_heads": 4, "qk_dim_factor": 0.5},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False,
              "expert_layer_period": 2, "expert_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1], "layer_types": None},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "nemotron_h": {"layer_types": None, "layers_block_type": ["mamba", "attention"]},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "minicpm3": {"logits_scaling": None}, "zaya": {"num_experts_per_tok": 1},
    "reformer": {"is_decoder": True},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "prophetnet": {"num_hidden_layers": None, "num_encoder_layers": 2, "num_decoder_layers": 2},
    "qwen4_exp_text": {"indexer_budget": 64, "indexer_compress_ratio": 4, "indexer_n_heads": 2,
                       "indexer_kv_heads": 1, "indexer_head_dim": 8},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"],
                            "rope_parameters": {k: {"rope_type": "default", "rope_theta": 10000.0}
                                                for k in ("sliding_attention", "full_attention")}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0}, "roc_bert": {"pronunciation_vocab_size": 40,
    "shape_vocab_size": 40},
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ALTERNATING,
                     "vocab_size_per_layer_input": VOCABULARY,
                     "hidden_size_per_layer_input": 8, "laurel_rank": 4,
                     "activation_sparsity_pattern": [0.0] * 4},
    "gemma4_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ALTERNATING,
                    "vocab_size_per_layer_input": VOCABULARY,
                    "hidden_size_per_layer_input": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "llama4_text": {"attention_chunk_size": 16, "moe_layers": [], "interleave_moe_layer_step": 0,
                    "num_hidden_layers": 4},
    "qwen2": {"use_sliding_window": False},
}  # fmt: skip

OWN["gemma4"], OWN["qwen4_exp"] = OWN["gemma4_text"], OWN["qwen4_exp_text"]


def names() -> list[str]:
    """Every model type that transformers maps to a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_of(name: str, **more: Any) -> Any:
    """A small configuration of an architecture; raises whatever transformers raises."""
    from transformers import AutoConfig

    made = AutoConfig.for_model(name)
    known = made.get_text_config().to_dict()
    values = {k: v for k, v in SMALL.items() if k in known or hasattr(made, k)}
    values |= {k: 0.0 for k in known if isinstance(known[k], float) and k.endswith(ZERO)}
    if "qk_rope_head_dim" in known and "num_key_value_heads" in values:
        values["num_key_value_heads"] = values["num_attention_heads"]
    values |= OWN.get(name, {}) | more
    layers = next((values[k] for k in ("num_hidden_layers", "n_layer", "num_layers") if k in values), 2)
    for key in BY_LAYER:
        if isinstance(known.get(key), (list, tuple)) and key not in values:
            kinds = list(dict.fromkeys(known[key]))
            values[key] = (kinds + list(known[key]))[:layers] if len(kinds) > 1 else kinds * layers
    values = {k: v for k, v in values.items() if v is not None or k == "n_inner"}
    inner = made.get_text_config()
    if inner is made:
        made = AutoConfig.for_model(name, **values)
    else:
        for key, value in values.items():
            setattr(inner, key, value)
    for key in getattr(made, "sub_configs", {}):
        part = getattr(made, key, None)
        if part is not None and part is not inner:  # towers of pictures or sound, which no text enters
            for size, value in SMALL.items():
                if hasattr(part, size) and size not in KEPT:
                    setattr(part, size, value)
    for one in (made, made.get_text_config()):
        one.bos_token_id, one.eos_token_id = 1, 2
        if getattr(one, "pad_token_id", None) is None or one.pad_token_id >= VOCABULARY:
            one.pad_token_id = 0
    return made


def model_of(name: str, seed: int = 0, **more: Any) -> Any:
    """A tiny causal model whose weights are large enough for masks to matter."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(name, **more)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not bool(parameter.any()):
                parameter.normal_(0, 0.1)  # what begins at zero would hide its part
    return model
