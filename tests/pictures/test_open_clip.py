"""CLIP's two towers beside open_clip's, with the same weights.

Needs open_clip, which no extra of Rung brings: pip install open-clip-torch (with torchvision).
"""

from __future__ import annotations

import json

import pytest
import torch

open_clip = pytest.importorskip(
    "open_clip", reason="parity with open_clip needs pip install open-clip-torch torchvision"
)

from rung import bases  # noqa: E402
from rung.pictures import picture  # noqa: E402
from rung.pictures.encoder import load  # noqa: E402
from tests.pictures.conftest import as_bytes, drawn, words_tokenizer  # noqa: E402

WIDTH, LAYERS, HEADS, SIDE, PATCH, SHARED = 32, 2, 2, 32, 8, 24
WORDS, LONGEST = 100, 16


@pytest.fixture(scope="module")
def peer():
    """A tiny model of open_clip's, with QuickGELU as OpenAI's weights have it."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(6)
    vision = CLIPVisionCfg(
        layers=LAYERS, width=WIDTH, head_width=WIDTH // HEADS, mlp_ratio=2.0, patch_size=PATCH,
        image_size=SIDE,
    )  # fmt: skip
    text = CLIPTextCfg(
        context_length=LONGEST, vocab_size=WORDS, width=WIDTH, heads=HEADS, layers=LAYERS, mlp_ratio=2.0
    )
    model = CLIP(SHARED, vision, text, quick_gelu=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def blocks(state, there, here):
    """The weights of a stack of blocks under transformers' names."""
    found = {}
    for n in range(LAYERS):
        old, new = f"{there}.resblocks.{n}", f"{here}.encoder.layers.{n}"
        for kind in ("weight", "bias"):
            joined = state[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("q", "k", "v"), joined, strict=True):
                found[f"{new}.self_attn.{name}_proj.{kind}"] = part
            for a, b in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                found[f"{new}.{b}.{kind}"] = state[f"{old}.{a}.{kind}"]
    return found


@pytest.fixture(scope="module")
def encoder(peer, tmp_path_factory):
    """The same weights as a folder of transformers', opened by Rung."""
    import transformers as hf

    common = {
        "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "hidden_act": "quick_gelu", "projection_dim": SHARED,
    }  # fmt: skip
    text = {**common, "vocab_size": WORDS, "max_position_embeddings": LONGEST, "bos_token_id": 1,
            "eos_token_id": WORDS - 1, "pad_token_id": 0}  # fmt: skip
    vision = {**common, "image_size": SIDE, "patch_size": PATCH}
    model = hf.CLIPModel(
        hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=SHARED)
    ).eval()
    state, own = peer.state_dict(), {}
    own |= blocks(state, "visual.transformer", "vision_model") | blocks(
        state, "transformer", "text_model"
    )
    vision_names = "vision_model.embeddings"
    own |= {
        f"{vision_names}.class_embedding": state["visual.class_embedding"],
        f"{vision_names}.patch_embedding.weight": state["visual.conv1.weight"],
        f"{vision_names}.position_embedding.weight": state["visual.positional_embedding"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_projection.weight": state["text_projection"].T,
        "logit_scale": state["logit_scale"],
    }
    for kind in ("weight", "bias"):
        first = next(n for n in model.state_dict() if "vision_model.pre_lay" in n).rpartition(".")[0]
        own[f"{first}.{kind}"] = state[f"visual.ln_pre.{kind}"]
        own[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        own[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    lacking = model.load_state_dict({n: t.contiguous() for n, t in own.items()}, strict=False)
    assert not lacking.unexpected_keys and all("position_ids" in k for k in lacking.missing_keys)
    folder = tmp_path_factory.mktemp("open_clip")
    model.save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE},
                 "crop_size": {"height": SIDE, "width": SIDE}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    words_tokenizer(folder, ["red", "green", "blue", "a", "photo"])
    return load(bases.resolve(str(folder)))


def test_the_image_tower_is_open_clips(peer, encoder):
    shown = [picture(as_bytes(drawn(c)))[0] for c in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    pixels = encoder.pixels(shown)
    with torch.no_grad():
        ours, theirs = encoder.pooled(pixels), peer.encode_image(pixels)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_text_tower_is_open_clips(peer, encoder):
    last = WORDS - 1  # open_clip reads a text at its largest id, transformers at the end of text
    ids = torch.zeros(3, LONGEST, dtype=torch.long)
    for row, words in enumerate(([5, 9], [7], [11, 12, 13, 14])):
        ids[row, : len(words) + 2] = torch.tensor([1, *words, last])
    with torch.no_grad():
        found = encoder.model.get_text_features(input_ids=ids)
        ours = found if isinstance(found, torch.Tensor) else found.pooler_output
        theirs = peer.encode_text(ids)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
