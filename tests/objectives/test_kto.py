"""KTO and the losses without a reference: TRL's numbers, and one baseline however a step is split."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from rung import objectives
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.objectives import Row
from rung.objectives.kto import _beside, _of_other_prompts
from rung.train.gradient import Gradients, Passes, evaluate
from rung.train.job import tune
from tests.models import VOCABULARY, tiny_adapter
from tests.objectives.test_dpo import First, models, plan, reply_logprobs, write_pairs

PEERS = Path(__file__).parents[2] / "bench" / "peers"
PEER = PEERS.parent / ".peers" / "bin" / "python"
needs_trl = pytest.mark.skipif(not PEER.exists(), reason="needs bench/.peers: make bench/.peers/.stamp")
CONFIG = {"beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.5}
tokens = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=6)
RATED = st.lists(st.tuples(tokens, tokens, st.booleans()), min_size=2, max_size=6)


def rows_of(rated: Any) -> list[Row]:
    rows = [
        Row(
            sequences=(Sequence([*prompt, *reply], [False] * len(prompt) + [True] * len(reply)),),
            weight=1.0,
            extra={"wanted": wanted},
        )  # fmt: skip
        for prompt, reply, wanted in rated
    ]
    return [_beside(row, rows[(i + 1) % len(rows)], 100) for i, row in enumerate(rows)]


def shifted(rated: Any) -> list[dict[str, Any]]:
    """The same in TRL's words: each prompt also with the reply of the row after it."""
    return [
        {"prompt_ids": prompt, "completion_ids": reply, "label": wanted,
         "KL_completion_ids": rated[(i + 1) % len(rated)][1]}
        for i, (prompt, reply, wanted) in enumerate(rated)
    ]  # fmt: skip


def ours(rated: Any, max_tokens: int) -> tuple[Any, dict[str, Any]]:
    policy, reference = models()
    objective = objectives.get("kto").configured(objectives.get("kto").Config(**CONFIG))
    bank, fixed = Bank(policy), Bank(reference)
    adapter = tiny_adapter(bank, "full")
    named = dict(bank.model.named_parameters())
    for name, tensor in adapter.weights.items():
        tensor.data = named[name].detach().clone()
    slot = bank.add(adapter)
    plain = Passes(bank=fixed, objective=objective, slot=-1)

    def scored(rows: Any) -> Any:
        from rung.forward.policy import Policy

        with torch.no_grad():
            return [[Policy(plain.bank, r.sequences, -1).logprobs().numpy()] for r in rows]

    rows = objective.prepare(rows_of(rated), scored)
    passes = Passes(bank=bank, objective=objective, slot=slot)
    measured = evaluate(passes, rows, max_tokens)
    gradients = Gradients(passes, adapter.trainable().parameters(), max_tokens, lambda _: None)
    found = gradients.of(rows, 0)
    assert measured["loss"] == pytest.approx(found.metrics["loss"], abs=1e-9)
    bank.close()
    fixed.close()
    return found.metrics, dict(zip(adapter.weights, found.tensors, strict=True))


def expected(rated: Any) -> tuple[Any, dict[str, Any]]:
    """Equation 7 of the paper on padded batches."""
    policy, reference = models()
    policy.requires_grad_(True)
    rows = shifted(rated)
    with torch.no_grad():
        fixed = reply_logprobs(reference, rows, "completion_ids")
        moved = reply_logprobs(policy, rows, "KL_completion_ids")
        moved = moved - reply_logprobs(reference, rows, "KL_completion_ids")
        baseline = moved.mean().clamp(min=0)
    ratios = reply_logprobs(policy, rows, "completion_ids") - fixed
    losses = []
    for ratio, row in zip(ratios, rows, strict=True):
        gain = ratio - baseline if row["label"] else baseline - ratio
        weight = CONFIG["desirable_weight" if row["label"] else "undesirable_weight"]
        losses.append(weight * (1 - torch.sigmoid(CONFIG["beta"] * gain)))
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


@settings(max_examples=15, deadline=None)
@given(rated=RATED, max_tokens=st.sampled_from([1, 10_000]))
def test_loss_and_gradients_of_the_padded_batch(rated, max_tokens):
    metrics, gradients = ours(rated, max_tokens)
    loss, theirs = expected(rated)
    assert metrics["loss"] == pytest.approx(float(loss), abs=1e-8)
    assert gradients.keys() <= theirs.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-8, rtol=1e-7), name


@pytest.mark.slow
@needs_trl
def test_loss_and_gradient_of_trl(tmp_path):
    from safetensors.torch import load_file

    g = torch.Generator().manual_seed(0)

    def draw(n: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (n,), generator=g).tolist()

    rated = [(draw(4), draw(1 + i), i % 2 == 0) for i in range(5)]
    policy, reference = models()
    policy.save_pretrained(tmp_path / "policy")
    reference.save_pretrained(tmp_path / "reference")
    folders = {part: str(tmp_path / part) for part in ("policy", "reference")}
    (tmp_path / "job.json").write_text(json.dumps({**folders, **CONFIG, "rows": shifted(rated)}))
    asked = [str(PEER), str(PEERS / "kto_trl.py"), str(tmp_path / "job.json"), str(tmp_path / "out")]
    subprocess.run(asked, check=True, capture_output=True)
    theirs = load_file(tmp_path / "out")
    metrics, gradients = ours(rated, 10_000)
    assert metrics["loss"] == pytest.approx(float(theirs["loss"]), abs=1e-8)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, theirs[name], atol=1e-8), name


def test_pairs_are_one_wanted_and_one_unwanted_reply(rung_home, tmp_path):
    pairs, told = write_pairs(tmp_path / "pairs.jsonl"), First()
    outcome = tune(plan("kind", pairs, objective="kto", epochs=4), told)
    assert told.steps[0]["loss"] == pytest.approx(0.5, abs=1e-6)  # equal policies
    assert outcome.metrics["test_loss"] < 0.45 and outcome.metrics["test_reward_right"] == 1.0


def plain(prompt: int, reply: int) -> Row:
    return Row(sequences=(Sequence([prompt, reply], [False, True]),), weight=1.0)


@given(prompts=st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_each_prompt_stands_beside_the_next_reply_to_another(prompts):
    rows = [plain(prompt, 10 + i) for i, prompt in enumerate(prompts)]
    for i, other in enumerate(_of_other_prompts(rows)):
        around = [*range(i + 1, len(rows)), *range(i + 1)]
        wanted = next((j for j in around if prompts[j] != prompts[i]), around[0])
        assert other is rows[wanted]


def test_a_chosen_reply_is_not_held_against_the_rejected_one(tmp_path):
    from rung.data import Template
    from rung.types import Example
    from tests.tokens import tiny_tokenizer

    def said(i: int, text: str, rating: float) -> Example:
        turns = ({"role": "user", "content": f"Go {i}"}, {"role": "assistant", "content": text})
        return Example(messages=turns, rating=rating)

    both = [said(i, f"{word} {i}", r) for i in range(3) for word, r in (("good", 1.0), ("bad", 0.0))]
    template = Template.of(tiny_tokenizer())
    rows, _ = objectives.get("kto").rows(both, template, 100)
    for i, row in enumerate(rows):
        text = template.decode(row.extra["other"].ids.tolist())
        assert f"Go {i // 2}" in text and f"good {(i // 2 + 1) % 3}" in text


# --- losses without a reference ---------------------------------------------------------------------


def alone(name: str, chosen: torch.Tensor, rejected: torch.Tensor, beta: float, gamma: float) -> Any:
    objective = objectives.get("dpo")
    config = objective.Config(loss=name, beta=beta, **({"gamma": gamma} if name == "simpo" else {}))
    return objective.configured(config)._losses(chosen, rejected)


means = st.lists(
    st.tuples(st.floats(-20, -1e-3), st.floats(-20, -1e-3)), min_size=1, max_size=6
)  # of log-probabilities: chosen, rejected


@given(pairs=means, beta=st.floats(0.05, 3), gamma=st.floats(0, 2))
@settings(deadline=None)
def test_simpo_and_orpo_by_their_papers(pairs, beta, gamma):
    chosen, rejected = torch.tensor(pairs, dtype=torch.float64).T
    simpo = -logsigmoid(beta * chosen - beta * rejected - gamma)
    assert torch.allclose(alone("simpo", chosen, rejected, beta, gamma), simpo)
    odds = [p.exp() / (1 - p.exp()) for p in (chosen, rejected)]
    orpo = -chosen - beta * logsigmoid((odds[0] / odds[1]).log())
    assert torch.allclose(alone("orpo", chosen, rejected, beta, gamma), orpo, rtol=1e-6)


@pytest.mark.slow
@needs_trl
def test_simpo_and_orpo_of_trl(tmp_path):
    g = torch.Generator().manual_seed(1)
    chosen, rejected = (-5 * torch.rand(6, generator=g, dtype=torch.float64) - 0.01 for _ in range(2))
    job = {"chosen": chosen.tolist(), "rejected": rejected.tolist(), "beta": 0.7, "gamma": 0.4}
    (tmp_path / "job.json").write_text(json.dumps(job))
    asked = [str(PEER), str(PEERS / "alone_trl.py"), str(tmp_path / "job.json"), str(tmp_path / "out")]
    subprocess.run(asked, check=True, capture_output=True)
    theirs = json.loads((tmp_path / "out").read_text())
    assert alone("simpo", chosen, rejected, 0.7, 0.4).tolist() == pytest.approx(theirs["simpo"])
    odds = alone("orpo", chosen, rejected, 0.7, 0.4) + chosen
    assert odds.tolist() == pytest.approx(theirs["orpo"], abs=1e-6)  # TRL rounds to float32 there


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
def test_they_train_without_a_reference(rung_home, tmp_path, loss):
    pairs, told = write_pairs(tmp_path / "pairs.jsonl"), First()
    outcome = tune(plan("kind", pairs, loss=loss, epochs=4), told)
    assert outcome.metrics["test_loss"] < told.steps[0]["loss"]
    assert outcome.metrics["test_reward_margin"] > 0


def test_the_reference_may_be_the_bare_base(rung_home, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    tune(plan("parent", pairs, epochs=4))
    told = First()
    tune(plan("child", pairs, parent="parent", reference="base"), told)
    assert told.steps[0]["reward_margin"] > 0  # the parent has gained already
