"""AdamW over whatever tensors an adapter has."""

from __future__ import annotations

import pytest
import torch

from rung.forward.bank import Bank
from rung.forward.llama.prepacked import Packing
from rung.train.knobs import TrainKnobs
from rung.train.optim import Optimizer
from tests.models import tiny_adapter, tiny_model


def test_a_parameter_stored_transposed_is_updated_like_any_other():
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(shape, generator=generator) for shape in ((6, 4), (4, 6)))
    after = []
    for parameter in (weight.clone().t(), weight.t().contiguous()):
        optimizer = Optimizer({"w": parameter.requires_grad_()}, TrainKnobs(lr=0.1, warmup=0.0), 10)
        optimizer.step(0, [gradient.clone()])
        after.append(parameter.detach().clone())
    # Not to the bit: some CPUs round the last elements of a vector register another way. A step through
    # memory in another order than the gradient's is off by the learning rate, 0.1.
    torch.testing.assert_close(*after, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "last_layers"])
def test_copies_of_weights_that_an_engine_joined_are_stored_in_the_plain_order(method):
    """A climb measures a rung by an engine and trains the next one on the same base."""
    bank = Bank(tiny_model())
    bank.prepare(Packing(rows=1), decoding=True)
    assert bank.inference is not None
    assert not bank.model.get_parameter("model.layers.2.mlp.down_proj.weight").is_contiguous()
    adapter = tiny_adapter(bank, method)
    assert all(tensor.is_contiguous() for tensor in adapter.weights.values())


def test_lora_plus_steps_as_pefts_optimizer_does():
    """PEFT's groups over a model of its own, ours over the same values by name, the same gradients."""
    peft = pytest.importorskip("peft")
    from peft.optimizers import create_loraplus_optimizer

    from rung import methods
    from rung.methods.lora import Knobs

    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(tiny_model(), settings)
    theirs = {name: p for name, p in model.named_parameters() if p.requires_grad}
    reference = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16, loraplus_weight_decay=0.0
    )
    ours = {
        name.replace(".default.weight", ""): p.detach().clone().requires_grad_()
        for name, p in theirs.items()
    }
    rates = methods.get("lora").rates(Knobs(plus=16.0), ours)
    assert sorted(rates) == sorted(name for name in ours if name.endswith("lora_B"))
    knobs = TrainKnobs(lr=0.01, schedule="constant", warmup=0.0, clip=1e9)
    optimizer = Optimizer(ours, knobs, 4, rates)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours.values()]
        for parameter, gradient in zip(theirs.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
        optimizer.step(step, gradients)
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
