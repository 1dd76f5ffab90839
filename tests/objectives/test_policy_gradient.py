"""GRPO, RLOO and PPO: losses and gradients equal formulas on padded batches, written here anew.

Where TRL 1.16 or OpenRLHF 0.11 is installed their own code is run on the same numbers too.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.objectives.policy_gradient import (
    advantages_and_returns,
    divergence,
    group_advantages,
    leave_one_out,
    whitened,
)
from tests.objectives.drawn import Case, cases, chosen, ours

LOW, HIGH, LONGEST = 0.2, 0.28, 9
NORMALISATIONS = ("dapo", "grpo", "bnpo", "dr_grpo")


def advantages_of(scores, scale="group"):
    """By the definition, one group at a time; (B,)."""
    every = [s for group in scores for s in group if s is not None]
    found = []
    for group in scores:
        known = [s for s in group if s is not None]
        if len(known) < 2:
            found += [0.0] * len(group)
            continue
        mean = sum(known) / len(known)
        over = known if scale == "group" else every
        centre = sum(over) / len(over)
        deviation = math.sqrt(sum((s - centre) ** 2 for s in over) / (len(over) - 1))
        divisor = 1.0 if scale == "none" else deviation + 1e-4
        found += [0.0 if s is None else (s - mean) / divisor for s in group]
    return torch.tensor(found, dtype=torch.float64)


def grpo_loss(case: Case, new, normalisation, level, kl, importance, masked):
    """One step's loss on (B, T)."""
    mask = case.mask.clone()
    if masked:
        mask[torch.tensor([c for group in case.cut for c in group])] = 0
    gap = (new - case.old) * case.mask
    if level == "sequence":
        ratio = (gap.sum(1) / case.mask.sum(1)).exp()[:, None].expand_as(gap)
    else:
        ratio = gap.exp()
    advantages = advantages_of(case.scores)[:, None]
    loss = -torch.min(ratio * advantages, ratio.clamp(1 - LOW, 1 + HIGH) * advantages)
    if kl:
        apart = case.reference - new
        k3 = apart.exp() - apart - 1
        loss = loss + kl * (k3 * ratio if importance else k3)
    loss, size = loss * mask, len(case.lengths[0])
    if normalisation == "dapo":
        return loss.sum() / mask.sum().clamp(min=1)
    if normalisation == "grpo":
        return (loss.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if normalisation == "dr_grpo":
        return loss.sum() / (len(loss) * LONGEST)
    parts = zip(loss.split(size), mask.split(size), strict=True)
    return torch.stack([a.sum() / b.sum().clamp(min=1) for a, b in parts]).mean()


def grpo_settings(normalisation, level, kl, importance, masked):
    return {
        "normalisation": normalisation, "ratio": level, "kl": kl, "kl_importance": importance or not kl,
        "mask_truncated": masked, "clip_low": LOW, "clip_high": HIGH, "answer_tokens": LONGEST,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    cases(), st.sampled_from(NORMALISATIONS), st.sampled_from(["token", "sequence"]),
    st.sampled_from([0.0, 0.04]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_grpo_is_the_formula(case, normalisation, level, kl, importance, masked):
    how = (normalisation, level, kl, importance, masked)
    loss, gradient, _ = ours(chosen("grpo", **grpo_settings(*how)), case)
    new = case.new.clone().requires_grad_(True)
    expected = grpo_loss(case, new, *how)
    (right,) = torch.autograd.grad(expected, new)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-9)
    assert torch.allclose(gradient, right, atol=1e-9, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([0.0, 0.05]), st.booleans())
def test_rloo_is_the_formula(case, kl, normalise):
    settings_ = {"kl": kl, "normalise": normalise, "clip_low": LOW, "clip_high": HIGH}
    loss, gradient, _ = ours(chosen("rloo", **settings_), case)
    apart = kl * ((case.old - case.reference) * case.mask).sum(1)
    size, flat = len(case.scores[0]), [s for group in case.scores for s in group]
    rewards = [None if s is None else s - float(apart[i]) for i, s in enumerate(flat)]
    advantages, taught = [], []
    for i, own in enumerate(rewards):
        group = rewards[i // size * size : (i // size + 1) * size]
        others = [r for j, r in enumerate(group) if r is not None and j != i % size]
        counts = own is not None and bool(others)
        advantages.append(own - sum(others) / len(others) if counts else 0.0)
        taught.append(counts)
    values, known = torch.tensor(advantages, dtype=torch.float64), torch.tensor(taught)
    if normalise and known.sum() >= 2:
        some = values[known]
        values[known] = (some - some.mean()) / (some.std() + 1e-4)
    new = case.new.clone().requires_grad_(True)
    ratio = ((new - case.old) * case.mask).sum(1).exp()
    expected = -torch.min(ratio * values, ratio.clamp(1 - LOW, 1 + HIGH) * values).mean()
    (right,) = torch.autograd.grad(expected, new)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-9)
    assert torch.allclose(gradient, right, atol=1e-9, rtol=1e-9)


# --- PPO --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=7),
    st.sampled_from([1.0, 0.9]), st.sampled_from([1.0, 0.95, 0.0]),
)  # fmt: skip
def test_advantages_are_sums_of_discounted_errors(steps, gamma, lam):
    values, rewards = (np.array(x) for x in zip(*steps, strict=True))
    advantages, returns = advantages_and_returns(values, rewards, gamma, lam)
    after = np.append(values[1:], 0.0)
    errors = rewards + gamma * after - values
    n = len(values)
    right = [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, n)) for t in range(n)]
    assert np.allclose(advantages, right) and np.allclose(returns, advantages + values)


class Source:
    """What `weighed` asks of a source."""

    def __init__(self, kl: float):
        self.control, self.slot = {"kl": kl}, 0
        self.setting = types.SimpleNamespace(bank=None)


def ppo_of(case: Case, old_values, values, monkeypatch, **settings_):
    """Our loss and gradients of log-probabilities and values, (B, T) each."""
    objective = chosen("ppo", clip_low=LOW, clip_high=HIGH, **settings_)
    monkeypatch.setattr("rung.objectives.rollouts.over_tokens", lambda *_: case.flat(old_values))
    leaf = values.clone().requires_grad_(True)
    mask = case.mask.bool()
    monkeypatch.setattr(type(objective), "values", lambda self, policy: leaf[mask])
    loss, gradient, metrics = ours(objective, case, Source(objective.config.kl))
    return objective, leaf, loss, gradient, metrics


def ppo_reference(case: Case, old_values, new, values, kl, lam):
    """The loss by its formulas, one answer at a time where order matters."""
    flat, mask = [s for group in case.scores for s in group], case.mask
    known = torch.tensor([[float(s is not None)] for s in flat]).double() * mask
    advantages, returns = torch.zeros_like(new), torch.zeros_like(new)
    for i, score in enumerate(flat):
        n = int(mask[i].sum())
        rewards = -kl * (case.old - case.reference)[i, :n].detach().clone()
        rewards[-1] += max(-10.0, min(10.0, score or 0.0))
        coming = 0.0
        for t in reversed(range(n)):
            after = float(old_values[i, t + 1]) if t + 1 < n else 0.0
            coming = float(rewards[t]) + after - float(old_values[i, t]) + lam * coming
            advantages[i, t], returns[i, t] = coming, coming + float(old_values[i, t])
    count = known.sum().clamp(min=1)
    mean = (advantages * known).sum() / count
    variance = ((advantages - mean) ** 2 * known).sum() / count
    advantages = (advantages - mean) * variance.clamp(min=1e-8).rsqrt()
    ratio = (new - case.old).exp()
    policy = -torch.min(ratio * advantages, ratio.clamp(1 - LOW, 1 + HIGH) * advantages)
    near = old_values + (values - old_values).clamp(-0.5, 0.5)
    error = 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2)
    return ((policy + error) * known).sum() / mask.sum(), advantages, returns


@settings(max_examples=40, deadline=None)
@given(cases(least=1), st.sampled_from([0.0, 0.3]), st.integers(0, 99))
def test_ppo_is_the_formula(case, kl, seed):
    generator = torch.Generator().manual_seed(seed)
    old_values, moved = (
        torch.randn(case.new.shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    with pytest.MonkeyPatch.context() as patch:
        objective, leaf, loss, gradient, _ = ppo_of(case, old_values, moved, patch, kl=kl)
        new, values = case.new.clone().requires_grad_(True), moved.clone().requires_grad_(True)
        expected, _, _ = ppo_reference(case, old_values, new, values, kl, objective.config.lam)
        right, _ = torch.autograd.grad(expected, (new, values), allow_unused=True)
        assert loss == pytest.approx(float(expected.detach()), abs=1e-9)
        assert torch.allclose(gradient, right, atol=1e-9, rtol=1e-9)


def openrlhf():
    """OpenRLHF's loss module, read from its file: the package itself needs a GPU's libraries."""
    try:
        place = Path(str(distribution("openrlhf").locate_file("openrlhf/models/loss.py")))
    except PackageNotFoundError:
        pytest.skip("needs openrlhf 0.11.2, installed without its dependencies")
    package = types.ModuleType("openrlhf_loss")
    package.__path__ = []
    utils = types.ModuleType("openrlhf_loss.utils")
    utils.masked_mean = lambda x, mask, dim=None: (  # the one thing that losses take of it
        (x * mask).sum(dim) / mask.sum(dim) if mask is not None else x.mean(dim)
    )
    sys.modules |= {"openrlhf_loss": package, "openrlhf_loss.utils": utils}
    spec = importlib.util.spec_from_file_location("openrlhf_loss.loss", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_losses_of_openrlhf():
    theirs, worst = openrlhf(), 0.0

    @settings(max_examples=60, deadline=None)
    @given(cases(least=1), st.integers(0, 99))
    def compare(case, seed):
        nonlocal worst
        case.scores = [[s or 0.0 for s in group] for group in case.scores]
        generator = torch.Generator().manual_seed(seed)
        old_values, moved = (
            torch.randn(case.new.shape, generator=generator, dtype=torch.float64) for _ in range(2)
        )
        with pytest.MonkeyPatch.context() as patch:
            objective, _, loss, gradient, _ = ppo_of(case, old_values, moved, patch, kl=0.3)
            new, values = case.new.clone().requires_grad_(True), moved.clone().requires_grad_(True)
            _, advantages, returns = ppo_reference(
                case, old_values, new, values, 0.3, objective.config.lam
            )
            policy = theirs.PolicyLoss(LOW, HIGH)(new, case.old, advantages, case.mask)
            policy = policy[0] if isinstance(policy, tuple) else policy
            error = theirs.ValueLoss(0.5)(values, old_values, returns, case.mask)
            (right,) = torch.autograd.grad(policy, new)
            off = [abs(loss - float((policy + error).detach())), float((gradient - right).abs().max())]
            worst = max(worst, *off)
            assert max(off) < 1e-9

    compare()
    print(f"OpenRLHF: off by at most {worst:.1e}")


# --- TRL itself -------------------------------------------------------------------------------------


def trl_trainer(case, new, loss_type, level, kl, importance):
    """What `_compute_loss` of TRL's trainers asks of a trainer."""
    same = types.SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )  # fmt: skip
    args = types.SimpleNamespace(use_bias_correction_kl=importance, delta=None, steps_per_generation=1)
    from collections import defaultdict

    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level=level, beta=kl, args=args, loss_type=loss_type, use_vllm=False,
        epsilon_low=LOW, epsilon_high=HIGH, model=types.SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1, accelerator=same, max_completion_length=LONGEST,
        _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)},
    )  # fmt: skip


def inputs_of(case, mask, advantages):
    ids = torch.zeros(len(mask), mask.shape[1], dtype=torch.long)
    return {
        "prompt_ids": ids[:, :1], "prompt_mask": torch.ones_like(ids[:, :1]), "completion_ids": ids,
        "completion_mask": mask, "advantages": advantages, "old_per_token_logps": case.old,
        "ref_per_token_logps": case.reference, "num_items_in_batch": mask.sum(),
        "old_logps": (case.old * mask).sum(1),
    }  # fmt: skip


def test_losses_of_trl():
    pytest.importorskip("trl", reason="needs trl 1.16.0")
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer

    worst = 0.0

    @settings(max_examples=60, deadline=None)
    @given(
        cases(), st.sampled_from(NORMALISATIONS), st.sampled_from(["token", "sequence"]),
        st.sampled_from([0.0, 0.04]), st.booleans(),
    )  # fmt: skip
    def grpo(case, normalisation, level, kl, importance):
        nonlocal worst
        how = (normalisation, level, kl, importance, False)
        loss, gradient, _ = ours(chosen("grpo", **grpo_settings(*how)), case)
        new = case.new.clone().requires_grad_(True)
        size = len(case.lengths[0])
        # bnpo averages over a micro-batch, which is a group here; the others see the whole step.
        parts = range(0, len(new), size if normalisation == "bnpo" else len(new))
        total = 0.0
        for at in parts:
            part = slice(at, at + (size if normalisation == "bnpo" else len(new)))
            piece = Case(**{**vars(case), "old": case.old[part], "reference": case.reference[part]})
            trainer = trl_trainer(piece, new[part], normalisation, level, kl, importance)
            inputs = inputs_of(piece, case.mask[part], advantages_of(case.scores)[part])
            total = total + GRPOTrainer._compute_loss(trainer, None, inputs) / len(parts)
        (right,) = torch.autograd.grad(total, new)
        off = [abs(loss - float(total.detach())), float((gradient - right).abs().max())]
        worst = max(worst, *off)
        assert max(off) < 1e-9

    @settings(max_examples=60, deadline=None)
    @given(cases())
    def rloo(case):
        nonlocal worst
        objective = chosen("rloo", kl=0.0, clip_low=LOW, clip_high=HIGH)
        loss, gradient, _ = ours(objective, case)
        advantages = torch.from_numpy(np.concatenate(leave_one_out(case.scores, False)))
        new = case.new.clone().requires_grad_(True)
        trainer = trl_trainer(case, new, "", "", 0.0, False)
        total = RLOOTrainer._compute_loss(trainer, None, inputs_of(case, case.mask, advantages))
        (right,) = torch.autograd.grad(total, new)
        off = [abs(loss - float(total.detach())), float((gradient - right).abs().max())]
        worst = max(worst, *off)
        assert max(off) < 1e-9

    grpo()
    rloo()
    print(f"TRL: off by at most {worst:.1e}")


# --- where a good guess is wrong --------------------------------------------------------------------


def test_none_is_left_out_of_mean_and_deviation():
    (found,) = group_advantages([[None, 0, 0, 0, 1, 1, 1, 1]], "group")
    assert found == pytest.approx([0, *[-1.0688] * 3, *[0.8016] * 4], abs=1e-4)


def test_a_group_with_one_score_teaches_nothing():
    for scores in ([[1.0, None, None]], [[None, None]]):
        assert not np.concatenate(group_advantages(scores, "group")).any()
        assert not np.concatenate(leave_one_out(scores, True)).any()
    (two,) = group_advantages([[1.0, 0.0, None]], "group")
    assert two == pytest.approx([0.7070, -0.7070, 0], abs=1e-4)


def test_two_answers_by_rloo_and_by_grpo():
    plain, scaled = leave_one_out([[1, 0]], False), leave_one_out([[1, 0]], True)
    assert plain[0] == pytest.approx([1, -1])
    assert scaled[0] == pytest.approx([0.7071, -0.7071], abs=1e-4)
    both = np.concatenate(leave_one_out([[1, 0], [1, 1]], True))
    assert both == pytest.approx([1.2246, -1.2246, 0, 0], abs=1e-3)
    assert np.concatenate(group_advantages([[1, 0], [1, 1]], "group")) == pytest.approx(
        [0.7070, -0.7070, 0, 0], abs=1e-4
    )


@pytest.mark.parametrize(
    ("normalisation", "times"), [("dapo", 4.0), ("grpo", 2.0), ("dr_grpo", 2.0), ("bnpo", 2.0)]
)
def test_a_flat_group_dilutes_each_mean_otherwise(normalisation, times):
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(8, 9, generator=generator, dtype=torch.float64)
    flat = {"lengths": [[9] * 4], "scores": [[1.0] * 4], "cut": [[False] * 4]}
    mixed = {"lengths": [[3] * 4], "scores": [[1.0, 0.0, 0.0, 1.0]], "cut": [[False] * 4]}
    alone = Case(**mixed, new=old[:4], old=old[:4], reference=old[:4])
    both = Case(**{k: [*mixed[k], *flat[k]] for k in mixed}, new=old, old=old, reference=old)
    objective = chosen("grpo", normalisation=normalisation, answer_tokens=LONGEST)
    one, two = (float(ours(objective, case)[1].norm()) for case in (alone, both))
    assert one / two == pytest.approx(times, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from(NORMALISATIONS), st.sampled_from([0.0, 0.04]))
def test_an_all_truncated_step_learns_nothing(case, normalisation, kl):
    case.cut = [[True] * len(group) for group in case.cut]
    objective = chosen("grpo", normalisation=normalisation, kl=kl, mask_truncated=True)
    loss, gradient, metrics = ours(objective, case)
    assert loss == 0 and not gradient.any() and all(v == 0 for v in metrics.values())


def test_on_policy_the_ratio_is_one_and_estimators_agree_at_no_distance():
    new = torch.linspace(-3, -1, 5)
    for kind in ("k1", "k2", "k3"):
        assert not divergence(new, new, kind).any()
    assert bool((divergence(new, new.flip(0), "k3") >= 0).all())


def test_whitened_arrays():
    found = np.concatenate(whitened([np.array([1.0, 2.0]), np.array([6.0])]))
    assert found.mean() == pytest.approx(0) and found.std() == pytest.approx(1)
    assert not np.concatenate(whitened([np.array([2.0, 2.0])])).any()
