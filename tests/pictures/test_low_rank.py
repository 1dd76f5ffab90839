"""LoRA on pictures: held to PEFT's numbers and gradients, kept, exported and refused in one line."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from rung import bases
from rung.errors import ConfigError, RungError
from rung.exports.export import export
from rung.forward.opening import open_bank
from rung.library.adding import add
from rung.methods import artefact, low_rank
from rung.methods.peft import of_type
from rung.methods.peft.base import Files
from tests.pictures.conftest import COLOURS, as_bytes, asked, drawn, made, tuned

peft = pytest.importorskip("peft", reason="numbers are held to PEFT's")

KNOBS = {
    "plain": ("siglip", {}),
    "towers": ("clip", {"text_tower": True}),
    "dora": ("clip", {"dora": True}),
    "pissa": ("vit", {"lora_init": "pissa", "rank": 4, "plus": 4.0}),
    "rows": ("convnext", {"rslora": True, "targets": ["pwconv1"], "augment": ["flip", "crop"]}),
}


@pytest.fixture(scope="module")
def models(home, photos, encoder_folder):
    """A model of each; B begins at random, since on colours nothing is better than the probe."""
    generator, plain = torch.Generator().manual_seed(4), low_rank.fresh

    def begun(*args):
        op = plain(*args)
        op.b += 0.05 * torch.randn(op.b.shape, generator=generator)
        return op

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(low_rank, "fresh", begun)
        return {
            name: tuned(f"low-{name}", "lora", encoder_folder(kind), photos, epochs=3, **settings)
            for name, (kind, settings) in KNOBS.items()
        }


@pytest.mark.parametrize("dora", [False, True])
def test_vectors_and_gradients_are_those_of_peft(dora, encoder_folder, home):
    """One loss over pictures and names, of random A and B beside every projection of both towers."""
    clip = made("clip")
    config = peft.LoraConfig(r=4, lora_alpha=8, use_dora=dora, target_modules="all-linear")
    theirs = peft.get_peft_model(clip, config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    bank = open_bank(bases.resolve(str(encoder_folder("clip")))).bank
    settings = {**config.to_dict(), "peft_type": "LORA", "target_modules": "all-linear"}
    state = {n: t.clone() for n, t in peft.get_peft_model_state_dict(theirs).items()}
    ours = of_type("LORA").read(Files(settings, state, bank)).trainable()
    ids = torch.tensor([[1, 3, 4, 5, 2], [1, 7, 6, 2, 2], [1, 8, 3, 4, 2]])
    pixels = torch.randn(5, 3, *bank.encoder.size)
    codes = torch.tensor([0, 1, 2, 1, 0])

    def loss(seen, named):
        return F.cross_entropy(8 * F.normalize(seen, dim=1) @ F.normalize(named, dim=1).T, codes)

    def vectors(out):
        return out if isinstance(out, torch.Tensor) else out.pooler_output

    base = theirs.get_base_model()
    named = vectors(base.get_text_features(input_ids=ids))
    seen = vectors(base.get_image_features(pixel_values=pixels))
    parameters = {n: p for n, p in theirs.named_parameters() if "lora_" in n}
    expected = dict(
        zip(parameters, torch.autograd.grad(loss(seen, named), parameters.values()), strict=True)
    )
    from rung.pictures.encoder import TextTokens

    with bank.acting(ours):
        mine = bank.encoder.pooled(pixels)
        told = bank.encoder.of_tokens(TextTokens(ids, torch.ones_like(ids)))
        tensors = ours.parameters()
        got = torch.autograd.grad(loss(mine, told), tensors.values())
    assert torch.allclose(mine, seen, atol=1e-5) and torch.allclose(told, named, atol=1e-5)
    assert len(tensors) == len(expected)
    for (name, _), gradient in zip(tensors.items(), got, strict=True):
        module, _, part = name.removeprefix("linear.").rpartition(".")
        part = "lora_magnitude_vector" if part == "magnitude" else part
        theirs_of = expected[f"base_model.model.{module}.{part}.default.weight"]
        assert torch.allclose(gradient, theirs_of, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("name", KNOBS)
def test_a_kept_model_answers_alike_and_is_exported_as_peft_reads_it(name, models, photos, tmp_path):
    made_one = models[name]
    prompts = [asked(photos, label, n) for label in COLOURS for n in range(2)]
    bank = made_one.prepared.bank
    slot = bank.add(made_one.adapter)
    before = made_one.adapter.classifier.probabilities(bank, slot, prompts)
    bank.remove(slot)
    fresh = open_bank(bases.resolve(made_one.prepared.base.spec)).bank
    adapter, about = artefact.load(made_one.model.folder, fresh)
    after = adapter.classifier.probabilities(fresh, fresh.add(adapter), prompts)
    assert about["method"] == "lora" and torch.allclose(before, after, atol=1e-5)
    assert all(op.b.abs().max() > 1e-3 for op in adapter.linear.values())
    proof = export(f"low-{name}", tmp_path / "peft", "peft")
    assert proof.pictures and proof.by == "PEFT" and proof.difference < 1e-4
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "pictures and texts, read back" in card and "pipeline_tag: image-classification" in card
    assert f"rung serve low-{name}" in card and "--to merged" not in card
    with pytest.raises(ConfigError, match="--to merged is for other models: use --to peft"):
        export(f"low-{name}", tmp_path / "whole", "merged")


def test_what_is_adapted_is_what_was_asked_for(models):
    plain, towers = models["plain"].adapter.linear, models["towers"].adapter.linear
    assert all(n.startswith("vision_model.") for n in plain)
    assert any(n.startswith("text_model.") for n in towers) and "visual_projection" in towers
    assert set(models["rows"].adapter.linear) == {
        f"encoder.stages.{n}.layers.{m}.pwconv1" for n, m in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))
    }


def test_the_same_seed_augments_and_trains_alike(home, photos, encoder_folder):
    settings = {"epochs": 4, "lr": 0.01, "rank": 2, "validation": 0.0}
    several = [
        tuned("again", "lora", encoder_folder("convnext"), photos, augment=augment, **settings)
        for augment in (["flip", "crop"], ["flip", "crop"], [])
    ]
    losses = [[look["validation_loss"] for look in made.metrics["history"]] for made in several]
    assert losses[0] == losses[1] and losses[0] != losses[2]
    first, again = (made.adapter.parameters() for made in several[:2])
    assert all(torch.equal(t, first[n]) for n, t in again.items())


def test_a_base_of_convolutions_is_refused_with_a_way_out(home, photos, encoder_folder):
    with pytest.raises(RungError, match="has no linear projections: use last_layers"):
        tuned("no", "lora", encoder_folder("resnet"), photos)


def test_an_adapter_without_a_classifier_is_refused_in_one_line(home, encoder_folder, tmp_path):
    base = encoder_folder("clip")
    model = peft.get_peft_model(made("clip"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    said["base_model_name_or_path"] = str(base)
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    with pytest.raises(RungError, match="holds no classifier") as fault:
        add("foreign", str(tmp_path))
    assert "\n" not in str(fault.value)


def test_augmentation_follows_from_seed_step_and_row_alone():
    from rung.pictures.augmentation import LEAST_SIDE, Augmentation, cut

    pixels = torch.arange(4 * 3 * 8 * 8, dtype=torch.float32).view(4, 3, 8, 8)
    both = Augmentation(["flip", "crop"], 5)
    whole = both(pixels, [3, 9, 1, 0], 7)
    parts = torch.cat([both(pixels[i : i + 1], [row], 7) for i, row in enumerate([3, 9, 1, 0])])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, both(pixels, [3, 9, 1, 0], 8))
    flipped = Augmentation(["flip"], 0)
    seen = {torch.equal(flipped(pixels[:1], [0], step), pixels[:1].flip(-1)) for step in range(40)}
    assert seen == {True, False}
    # A cut of full size is the picture; the least one, of a ramp, spans that share of its values.
    assert torch.allclose(cut(pixels, torch.tensor([[1.0, 0.3, 0.9]] * 4)), pixels, atol=1e-3)
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    least = cut(ramp, torch.tensor([[0.0, 0.5, 0.5]]))
    assert float(least[0, 0, 0, -1] - least[0, 0, 0, 0]) == pytest.approx(63 * LEAST_SIDE, abs=0.5)


def test_augmenting_is_refused_for_text(home, tmp_path):
    import rung

    rows = [{"prompt": f"row {i}", "completion": "ab"[i % 2]} for i in range(30)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scratch = "scratch:layers=1,width=32,heads=2,vocab=300,context=64"
    with pytest.raises(RungError, match="--augment means nothing on bases that read text"):
        rung.tune("no", str(tmp_path / "t.jsonl"), base=scratch, method="lora", augment=["flip"],
                  device="cpu")  # fmt: skip


def test_a_picture_of_its_own_is_still_the_pictures_own(home, encoder_folder):
    """Passes without an adapter are not touched by one that acted before."""
    bank = open_bank(bases.resolve(str(encoder_folder("vit")))).bank
    from rung.pictures import picture

    shown = [picture(as_bytes(drawn((9, 9, 200))))[0]]
    before = bank.encoder.encode(shown)
    from rung.forward.adapter import Adapter
    from rung.forward.lora import LoraOp
    from rung.methods import layers

    ops = {n: LoraOp(torch.ones(1, i), torch.ones(o, 1), 1.0)
           for n, (_, i, o) in layers.projections(bank).items()}  # fmt: skip
    with bank.acting(Adapter(linear=ops)):
        assert not torch.allclose(bank.encoder.encode(shown), before)
    assert torch.equal(bank.encoder.encode(shown), before)
