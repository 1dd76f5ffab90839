"""CoOp, learnt context in front of labels' names: held to the same computed plainly in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import rung
from rung import bases
from rung.errors import MethodMisfit
from rung.forward.opening import open_bank
from rung.methods import artefact
from rung.methods.pictures.names import ContextLoop, begun
from tests.pictures.conftest import COLOURS, asked, tuned


def named_by_hand(model, ids, context, front):
    """Labels' vectors by CLIP's text tower, written out, in float64.

    Args:
        ids: (L, t) with places for the context. context: (m, e).
    """
    state = {n: t.double() for n, t in model.state_dict().items()}
    config = model.config.text_config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads

    def layer(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = centred.pow(2).mean(-1, keepdim=True) + config.layer_norm_eps
        return centred / spread.sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    rows = []
    for row in ids:
        x = state["text_model.embeddings.token_embedding.weight"][row]
        x = torch.cat([x[:front], context, x[front + len(context) :]])
        x = x + state["text_model.embeddings.position_embedding.weight"][: len(row)]
        hidden = torch.full((len(row), len(row)), -math.inf, dtype=torch.float64).triu(1)
        for n in range(config.num_hidden_layers):
            place = f"text_model.encoder.layers.{n}"
            seen = norm(x, f"{place}.layer_norm1")
            q, k, v = (
                layer(seen, f"{place}.self_attn.{p}_proj").view(-1, heads, size).transpose(0, 1)
                for p in "qkv"
            )
            weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(size) + hidden, -1)
            mixed = (weights @ v).transpose(0, 1).reshape(len(row), -1)
            x = x + layer(mixed, f"{place}.self_attn.out_proj")
            inner = layer(norm(x, f"{place}.layer_norm2"), f"{place}.mlp.fc1")
            x = x + layer(inner * torch.sigmoid(1.702 * inner), f"{place}.mlp.fc2")
        x = norm(x, "text_model.final_layer_norm")
        # Where the end is id 2, as in the first CLIPs, the largest id is taken for the end.
        rows.append(x[row.argmax()] @ state["text_projection.weight"].T)
    return F.normalize(torch.stack(rows), dim=1)


@pytest.fixture
def clip(encoder_folder, home):
    return open_bank(bases.resolve(str(encoder_folder("clip")))).bank


def loop_over(bank, labels, count=4, rows=6):
    tokens, front = begun(bank.encoder, labels, [3] * count)
    torch.manual_seed(1)
    context = torch.randn(count, bank.model.config.text_config.hidden_size) * 0.3
    vectors = F.normalize(torch.randn(rows, bank.width), dim=1)
    return ContextLoop(
        study=None, codes=torch.arange(rows) % len(labels), count=rows, size=4,
        encoder=bank.encoder, labels=tuple(labels), vectors=vectors, tokens=tokens,
        context=context, front=front,
    )  # fmt: skip


@pytest.mark.parametrize("labels", [["red", "green"], ["red green_an", "a", "blue"]])
def test_logits_and_gradient_are_those_computed_plainly(labels, clip):
    loop = loop_over(clip, labels)
    loop.context.requires_grad_(True)
    rows = torch.arange(6)
    loop.gradients(rows, 1)
    context = loop.context.detach().double().requires_grad_(True)
    named = named_by_hand(clip.model, loop.tokens.ids, context, loop.front)
    logits = clip.encoder.scale * loop.vectors.double() @ named.T
    assert torch.allclose(loop.logits(rows).double(), logits, atol=1e-4)
    loss = F.cross_entropy(logits, loop.codes, label_smoothing=0.05)
    (expected,) = torch.autograd.grad(loss, context)
    assert torch.allclose(loop.context.grad.double(), expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_training_begins_at_zero_shot(kind, encoder_folder, home):
    """The context `a photo of a` as it is in the table gives what those words give."""
    from rung.forward.picture_classifier import label_vectors
    from rung.methods.pictures.prompt_tuning import _first
    from rung.methods.prompt_tuning import Knobs

    bank = open_bank(bases.resolve(str(encoder_folder(kind)))).bank
    ids, context = _first(bank.encoder, Knobs(virtual_tokens=4), torch.Generator())
    labels = ["red", "green", "blue"]
    loop = loop_over(bank, labels)
    loop.tokens, loop.front = begun(bank.encoder, labels, ids)
    loop.context = context
    expected = label_vectors(bank.encoder, labels, ("a photo of a {}.",))
    assert loop.front == 1  # the tests' tokenizer writes a start in front for both
    with torch.no_grad():
        assert torch.allclose(loop.named(), expected, atol=1e-5)
    assert not bank.encoder.model.text_model.embeddings.token_embedding._forward_hooks


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_of_context_is_better_than_its_beginning_and_kept(kind, home, photos, encoder_folder):
    made = tuned(f"context-{kind}", "prompt_tuning", encoder_folder(kind), photos, lr=0.05, epochs=15)
    losses = [look["validation_loss"] for look in made.metrics["history"]]
    assert min(losses) < losses[0]
    prompts = [asked(photos, label, n) for label in COLOURS for n in range(2)]
    bank = open_bank(bases.resolve(made.prepared.base.spec)).bank
    adapter, about = artefact.load(made.model.folder, bank)
    assert about["method"] == "prompt_tuning" and adapter.classifier.context.shape == (4, 32)
    before = made.adapter.classifier.probabilities(bank, -1, prompts)
    assert torch.allclose(adapter.classifier.probabilities(bank, -1, prompts), before, atol=1e-6)
    found = rung.evaluate(made.model.name, data=str(photos), validation=0.2, test=0.2, device="cpu")
    assert 0 <= found[made.model.name].value <= 1


@pytest.mark.parametrize("settings", [{"init": "random"}, {"init": "vocab", "virtual_tokens": 2},
                                      {"init_text": "photo", "virtual_tokens": 6}])  # fmt: skip
def test_context_begins_where_it_is_told(settings, home, photos, encoder_folder):
    made = tuned("begins", "prompt_tuning", encoder_folder("clip"), photos, epochs=1, **settings)
    assert len(made.adapter.classifier.context) == settings.get("virtual_tokens", 4)


def test_too_long_a_context_is_refused(home, photos, encoder_folder):
    with pytest.raises(MethodMisfit, match="leaves no room for names: at most 12"):
        tuned("no", "prompt_tuning", encoder_folder("clip"), photos, virtual_tokens=13)
