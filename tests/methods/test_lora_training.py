"""What LoRA is trained with beside itself: PiSSA, OLoRA and dropout, against PEFT."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch

from rung import methods
from rung.errors import MethodMisfit
from rung.forward.bank import Bank
from rung.forward.dropout import Dropout
from rung.forward.lora import LoraOp
from rung.forward.loss import cross_entropy
from rung.forward.trie import Sequence
from rung.methods import artefact, merging
from rung.methods.base import Start
from tests.methods.test_peft import BASE
from tests.methods.test_peft_kinds import TASK, apart
from tests.models import VOCABULARY, tiny_model

IDS = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_fc"]}
LORA = methods.get("lora")


def begun(bank, config):
    return LORA.build(bank, config, Start(torch.Generator().manual_seed(0)))


def loss_of(bank, slot):
    trie = bank.trie([Sequence(tuple(r), (False,) + (True,) * 11, slot) for r in IDS.tolist()])
    return cross_entropy(bank, trie, bank.forward(trie), slot)[0] / float(trie.weight.sum())


def theirs_of(family, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(**TASK, r=4, lora_alpha=6, target_modules=TARGETS[family], **settings)
        return peft.get_peft_model(tiny_model(family), config)


def their_loss(model):
    labels = IDS.clone()
    labels[:, 0] = -100
    return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=labels).loss


def name_of(name):
    """PEFT's name of a parameter of ours."""
    stem = f"base_model.model.{name.removeprefix('linear.')}"
    if stem.endswith(".magnitude"):
        return stem.removesuffix("magnitude") + "lora_magnitude_vector.default.weight"
    return f"{stem}.default.weight"


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    ("family", "start"), [("llama", "pissa"), ("llama", "olora"), ("gpt2", "pissa")]
)
def test_it_is_trained_as_peft_trains_it(family, start, rslora, tmp_path):
    """Five steps of gradient descent from the same start, then read by PEFT on the untouched base."""
    bank = Bank(tiny_model(family))
    config = LORA.Config(rank=4, alpha=6.0, targets=TARGETS[family], lora_init=start, rslora=rslora)
    adapter = begun(bank, config).trainable()
    model = theirs_of(family, {"init_lora_weights": start, "use_rslora": rslora})
    named = dict(model.named_parameters())
    slot, ours = bank.add(adapter), adapter.parameters()
    # A decomposition may turn a direction round: both begin with the very same.
    for name, parameter in ours.items():
        assert apart(named[name_of(name)].detach().abs(), parameter.detach().abs()) < 1e-3
    _take_over(adapter, named)
    for _ in range(5):
        loss, reference = loss_of(bank, slot), their_loss(model)
        assert float(loss) == pytest.approx(float(reference), rel=1e-4)
        found = torch.autograd.grad(loss, list(ours.values()))
        wanted = torch.autograd.grad(reference, [named[name_of(n)] for n in ours])
        for (name, parameter), a, b in zip(ours.items(), found, wanted, strict=True):
            assert apart(a, b) < 2e-3
            parameter.data -= 0.05 * a
            named[name_of(name)].data -= 0.05 * b
    adapter.trainable(False)
    assert artefact.read_back(adapter, bank, LORA, config) is None
    artefact.write_adapter(tmp_path, LORA, *LORA.to_files(adapter, bank, config), BASE)
    read = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()
    with torch.no_grad():
        wanted = model.eval()(input_ids=IDS).logits
        assert apart(read(input_ids=IDS).logits, wanted) < 1e-3
    kept = adapter.kept()
    assert all(type(op) is LoraOp and len(op.a) == 8 for op in kept.linear.values())
    whole = tiny_model(family)
    merging.put_into(whole, merging.merged(adapter, bank))
    with torch.no_grad():
        assert apart(whole(input_ids=IDS).logits, wanted) < 1e-3


def _take_over(adapter, named):
    for module, op in adapter.linear.items():
        for name in ("lora_A", "lora_B"):
            part = dict(op.parameters())[name]
            part.data = named[name_of(f"linear.{module}.{name}")].detach().clone()
        op.first = (op.a.detach().clone(), op.b.detach().clone())


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_it_begins_as_the_base(start):
    bank = Bank(tiny_model())
    slot = bank.add(begun(bank, LORA.Config(rank=4, lora_init=start)))
    with torch.no_grad():
        assert float(loss_of(bank, slot)) == pytest.approx(float(loss_of(bank, -1)), rel=1e-5)


class Ours(torch.nn.Module):
    """Rung's masks in the place of PEFT's dropout."""

    def __init__(self, dropout, name):
        super().__init__()
        self.dropout, self.name = dropout, name

    def forward(self, x):
        return self.dropout(x.reshape(-1, x.shape[-1]), self.name).view(x.shape)


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"lora_init": "pissa"}], ids=str)
def test_gradients_under_dropout_equal_pefts(settings):
    bank = Bank(tiny_model())
    config = LORA.Config(rank=4, alpha=6.0, targets=TARGETS["llama"], dropout=0.3, **settings)
    adapter = begun(bank, config)
    theirs = {"use_dora": settings.get("dora", False), "lora_dropout": 0.3}
    theirs["init_lora_weights"] = settings.get("lora_init", True)
    model = theirs_of("llama", theirs).train()
    named = dict(model.named_parameters())
    for i, parameter in enumerate(adapter.parameters().values()):
        generator = torch.Generator().manual_seed(i)
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    if settings.get("lora_init"):
        _take_over(adapter, named)
    for name, parameter in adapter.parameters().items():
        named[name_of(name)].data = parameter.detach().clone()
    for name, module in model.named_modules():
        if name.endswith(".lora_dropout"):
            place = name.removeprefix("base_model.model.").removesuffix(".lora_dropout")
            module["default"] = Ours(adapter.dropout, place)
    slot, ours = bank.add(adapter.trainable()), adapter.parameters()
    bare = loss_of(bank, slot)
    with adapter.dropping(3, 0, 1):
        loss = loss_of(bank, slot)
        found = torch.autograd.grad(loss, list(ours.values()))
        reference = their_loss(model)
        wanted = torch.autograd.grad(reference, [named[name_of(n)] for n in ours])
    assert float(loss) == pytest.approx(float(reference), rel=1e-4)
    assert abs(float(loss) - float(bare)) > 1e-4  # outside a step of training nothing is dropped
    for a, b in zip(found, wanted, strict=True):
        assert apart(a, b) < 2e-3


def test_masks_follow_from_their_key_and_keep_the_mean():
    dropout, x = Dropout(0.25, seed=7), torch.ones(400, 50)
    assert dropout(x, "a") is x
    with dropout.drawing(1, 0, 0):
        first, other = dropout(x, "a"), dropout(x, "b")
        assert torch.equal(first, dropout(x, "a")) and not torch.equal(first, other)
    with dropout.drawing(2, 0, 0):
        assert not torch.equal(first, dropout(x, "a"))
    assert float(first.mean()) == pytest.approx(1.0, abs=0.02)
    assert first.unique().tolist() == [0.0, pytest.approx(4 / 3)]


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("llama", {"dora": True, "lora_init": "pissa"}, "no DoRA with --lora-init"),
        ("llama", {"dora": True, "activated": "x"}, "no DoRA with --activated"),
        ("gpt2", {"lora_init": "olora"}, "no OLoRA"),
        ("llama", {"lora_init": "pissa", "rank": 33}, "take fewer"),
    ],
)
def test_what_cannot_be_is_refused(family, settings, words):
    bank = Bank(tiny_model(family))
    with pytest.raises(MethodMisfit, match=words):
        begun(bank, LORA.Config(**settings))


def test_the_upper_half_needs_layers_and_projections_in_it():
    bank = Bank(tiny_model("llama"))
    lowest = f"{bank.layer_names[0]}.self_attn.q_proj"
    with pytest.raises(MethodMisfit, match="no projection of the upper half: leave --adapted upper"):
        begun(bank, LORA.Config(targets=[lowest], adapted="upper"))
    assert list(begun(bank, LORA.Config(targets=[lowest])).linear) == [lowest]
