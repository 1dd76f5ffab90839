"""AdamW over moments in 8 bits: codes as near as those of bitsandbytes, steps as published."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rung.train import adamw8bit
from rung.train.adamw8bit import BLOCK, AdamW8bit, rounded, widened
from rung.train.knobs import TrainKnobs
from rung.train.optim import Optimizer

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.one_of(st.integers(1, 3 * BLOCK + 5), st.just(64 * BLOCK))


def values(count: int, seed: int, signed: bool, spread: float = 3.0) -> Tensor:
    """Values of many magnitudes, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(count, generator=generator)
    found *= 10 ** (spread * torch.randn(count, generator=generator))
    found[torch.rand(count, generator=generator) < 0.05] = 0.0
    return found if signed else found.abs()


def table(signed: bool) -> Tensor:
    return adamw8bit.table(signed, CPU)


def nearest(shares: Tensor, signed: bool) -> Tensor:
    """By looking at all 256, in float64; of two that are as near, the lower."""
    return (shares.double().unsqueeze(1) - table(signed).double()).abs().argmin(1)


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_is_that_of_bitsandbytes(signed):
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(table(signed), functional.create_dynamic_map(signed=signed))


@given(COUNTS, SEEDS, st.booleans())
def test_each_value_gets_the_code_nearest_to_it(count, seed, signed):
    given_ = values(count, seed, signed)
    codes, scales = rounded(given_, signed)
    assert codes.dtype == torch.uint8 and codes.shape == given_.shape
    blocks = torch.arange(count) // BLOCK
    assert torch.equal(scales, torch.stack([b.abs().max() for b in given_.split(BLOCK)]))
    shares = given_ / scales.clamp(min=1e-38)[blocks]
    best = table(signed)[nearest(shares, signed)]
    error = (table(signed)[codes.int()] - shares).abs()
    # Middles are rounded to float32, so that at one of them either neighbour may be taken.
    assert bool((error <= (best - shares).abs() + 1e-7).all())
    torch.testing.assert_close(
        widened(codes, scales, signed), table(signed)[codes.int()] * scales[blocks]
    )


@pytest.mark.parametrize("signed", [True, False])
def test_every_edge_between_two_codes_is_met(signed):
    known = table(signed)
    middles = (known[:-1] + known[1:]) / 2
    up, down = (torch.nextafter(middles, torch.tensor(s)) for s in (2.0, -2.0))
    for shares, codes in (
        (up, torch.arange(1, 256)),
        (down, torch.arange(255)),
        (known, torch.arange(256)),
    ):
        asked = torch.cat([shares, torch.ones(1)])  # the largest of its block, so that its scale is 1
        assert asked.numel() <= BLOCK + 1
        for part, expected in zip(asked[:-1].split(200), codes.split(200), strict=True):
            found, scale = rounded(torch.cat([part, torch.ones(1)]), signed)
            assert float(scale) == 1.0
            assert torch.equal(found[:-1].long(), expected)


@given(SEEDS, st.booleans())
def test_no_value_is_kept_worse_than_by_bitsandbytes(seed, signed):
    functional = pytest.importorskip("bitsandbytes.functional")
    given_ = values(8 * BLOCK, seed, signed, spread=1.0)
    codes, scales = rounded(given_, signed)
    theirs, state = functional.quantize_blockwise(given_, code=table(signed).clone(), blocksize=BLOCK)
    assert torch.equal(scales, state.absmax)
    kept, reference = widened(codes, scales, signed), functional.dequantize_blockwise(theirs, state)
    slack = 1e-6 * scales.repeat_interleave(BLOCK)
    assert bool(((kept - given_).abs() <= (reference - given_).abs() + slack).all())


def published(parameter, gradient, moments, step, lr, decay, betas=(0.9, 0.999), eps=1e-8):
    """The published update in float64, before moments are rounded: the parameter and both moments."""
    g, p = gradient.reshape(-1).double(), parameter.reshape(-1).double()
    first = betas[0] * moments[0] + (1 - betas[0]) * g
    second = betas[1] * moments[1] + (1 - betas[1]) * g * g
    ahead = (first / (1 - betas[0] ** step)) / ((second / (1 - betas[1] ** step)).sqrt() + eps)
    return (p * (1 - lr * decay) - lr * ahead).view_as(parameter), (first, second)


def kept_moments(state: dict[str, Tensor]) -> list[Tensor]:
    """Both moments of one parameter as they are kept, float64."""
    found = []
    for name in ("exp_avg", "exp_avg_sq"):
        kept, scales = state[name].view(-1), state.get(f"{name}_scale")
        found.append((kept if scales is None else widened(kept, scales, name == "exp_avg")).double())
    return found


@given(SEEDS, st.sampled_from([(7,), (64, 63), (64, 64), (5, 3, 400), (97, 129)]))
def test_a_step_is_the_published_one_with_moments_rounded_after_it(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.randn(shape, generator=generator).requires_grad_()
    optimizer = AdamW8bit([{"params": [parameter], "lr": 0.01}], weight_decay=0.1)
    before = [torch.zeros(parameter.numel(), dtype=torch.float64)] * 2
    for step in range(1, 4):
        parameter.grad = torch.randn(shape, generator=generator)
        expected, exact = published(parameter.detach(), parameter.grad, before, step, 0.01, 0.1)
        optimizer.step()
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
        before = kept_moments(optimizer.state[parameter])
        for moment, (kept, wanted) in enumerate(zip(before, exact, strict=True)):
            if parameter.numel() < adamw8bit.SMALL:
                torch.testing.assert_close(kept, wanted, rtol=1e-5, atol=1e-7)
                continue
            codes, scales = rounded(wanted.float(), signed=moment == 0)
            best = (widened(codes, scales, moment == 0).double() - wanted).abs()
            slack = 1e-6 * scales.double()[torch.arange(wanted.numel()) // BLOCK]
            assert bool(((kept - wanted).abs() <= best + slack).all())


def test_chunks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(91, 113, generator=generator)
    gradients = [torch.randn(91, 113, generator=generator) for _ in range(3)]
    ends = []
    for chunk in (BLOCK, 8 * BLOCK, 1 << 20):
        monkeypatch.setattr(adamw8bit, "CHUNK", chunk)
        parameter = start.clone().requires_grad_()
        optimizer = AdamW8bit([{"params": [parameter], "lr": 0.1}])
        for gradient in gradients:
            parameter.grad = gradient
            optimizer.step()
        ends.append([parameter.detach(), *optimizer.state[parameter].values()])
    for other in ends[1:]:
        for mine, theirs in zip(ends[0], other, strict=True):
            assert torch.equal(mine, theirs)


def descended(kind: str, steps: int = 300) -> float:
    """The loss that a least-squares problem ends at."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(256, 96, generator=generator)
    wanted = inputs @ torch.randn(96, 64, generator=generator)
    weight = torch.zeros(96, 64).requires_grad_()
    optimizer = Optimizer({"w": weight}, TrainKnobs(lr=0.05, optimizer=kind, clip=1e9), steps)
    for step in range(steps):
        loss = (inputs @ weight - wanted).square().mean()
        optimizer.step(step, list(torch.autograd.grad(loss, [weight])))
    return float(loss.detach())


def test_training_ends_where_that_with_whole_moments_does():
    whole, small = descended("adamw"), descended("adamw8bit")
    assert small < 0.05 and whole < 0.05  # from 96


def test_the_state_is_tensors_of_two_bytes_a_value_and_goes_on_to_the_bit():
    generator = torch.Generator().manual_seed(1)
    knobs = TrainKnobs(lr=0.01, optimizer="adamw8bit")
    start = {"a": torch.randn(80, 100, generator=generator), "b": torch.randn(9, generator=generator)}
    steps = [[torch.randn(p.shape, generator=generator) for p in start.values()] for _ in range(6)]

    def begun():
        parameters = {name: p.clone().requires_grad_() for name, p in start.items()}
        return parameters, Optimizer(parameters, knobs, len(steps))

    whole, optimizer = begun()
    for step, gradients in enumerate(steps):
        optimizer.step(step, [g.clone() for g in gradients])
        if step == 2:
            kept = safetensors.torch.save({n: t.contiguous() for n, t in optimizer.state().items()})
            values_then = {name: p.detach().clone() for name, p in whole.items()}
    size = sum(t.numel() * t.element_size() for n, t in optimizer.state().items() if n.startswith("a/"))
    assert size <= 2.05 * 8000
    resumed, optimizer = begun()
    for name, parameter in resumed.items():
        parameter.data.copy_(values_then[name])
    optimizer.restore(safetensors.torch.load(kept))
    for step in range(3, len(steps)):
        optimizer.step(step, [g.clone() for g in steps[step]])
    for name in start:
        assert torch.equal(whole[name], resumed[name])


def test_a_parameter_stored_transposed_is_updated_like_any_other():
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(80, 70, generator=generator)
    gradients = [torch.randn(80, 70, generator=generator) for _ in range(3)]
    plain, turned = start.clone().requires_grad_(), start.t().contiguous().t().requires_grad_()
    assert not turned.is_contiguous()
    for parameter in (plain, turned):
        optimizer = AdamW8bit([{"params": [parameter], "lr": 0.1}])
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(plain, turned)
