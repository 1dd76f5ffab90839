"""DPO's loss, gradient and reference; the formulas are written here anew, on padded logits."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from rung import objectives
from rung.artefacts import folders
from rung.data.template import Template
from rung.errors import ConfigError, DataError, Interrupted
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.objectives import Row
from rung.store import Store
from rung.train.gradient import Gradients, Passes
from rung.train.job import resume, tune
from rung.train.observers import Observer
from rung.train.plan import Plan
from rung.types import Message, Pair
from tests.cli.conftest import Ask, ask
from tests.models import VOCABULARY, tiny_adapter, tiny_model
from tests.tokens import tiny_tokenizer
from tests.train.conftest import SCRATCH
from tests.train.test_trackers import StopsAt

__all__ = ["ask"]
LOSSES = ["sigmoid", "ipo", "hinge", "robust", "sigmoid_norm"]
BETA, NOISE = 0.3, 0.2
PEER = Path(__file__).parents[2] / "bench" / ".peers" / "bin" / "python"
SCRIPT = Path(__file__).parents[2] / "bench" / "peers" / "dpo_trl.py"


def pairs_of_ids(seed: int = 0) -> list[dict[str, list[int]]]:
    """Prompts of which some are shared, and replies of unlike lengths that begin alike."""
    g = torch.Generator().manual_seed(seed)

    def draw(n: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (n,), generator=g).tolist()

    prompts, start = [draw(5), draw(3)], draw(1)
    return [
        {
            "prompt_ids": prompts[i % 2],
            "chosen_ids": [*start, *draw(i)],
            "rejected_ids": [*start, *draw(4 - i)],
        }
        for i in range(4)
    ]


def rows_of(pairs: list[dict[str, list[int]]]) -> list[Row]:
    rows = []
    for i, pair in enumerate(pairs):
        sides = [pair["chosen_ids"], pair["rejected_ids"]]
        prompt = pair["prompt_ids"]
        sequences = tuple(
            Sequence([*prompt, *side], [False] * len(prompt) + [True] * len(side)) for side in sides
        )
        rows.append(Row(sequences=sequences, weight=1.0, origin=f"pairs:{i + 1}"))
    return rows


def reply_logprobs(model: Any, pairs: list[dict[str, list[int]]], side: str) -> torch.Tensor:
    """Sums of the replies' log-probabilities (pairs,), by transformers on a padded batch."""
    whole = [pair["prompt_ids"] + pair[side] for pair in pairs]
    width = max(map(len, whole))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in whole])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole])
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    every = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
    return torch.stack(
        [
            every[i, len(pair["prompt_ids"]) - 1 : len(row) - 1].sum()
            for i, (pair, row) in enumerate(zip(pairs, whole, strict=True))
        ]
    )


def expected_loss(name: str, policy: Any, reference: Any, pairs: Any) -> torch.Tensor:
    """The mean loss by the formulas of the papers and of TRL."""
    chosen = reply_logprobs(policy, pairs, "chosen_ids")
    rejected = reply_logprobs(policy, pairs, "rejected_ids")
    with torch.no_grad():
        chosen_fixed = reply_logprobs(reference, pairs, "chosen_ids")
        rejected_fixed = reply_logprobs(reference, pairs, "rejected_ids")
    good, bad = chosen - chosen_fixed, rejected - rejected_fixed
    if name in ("ipo", "sigmoid_norm"):
        good = good / torch.tensor([float(len(p["chosen_ids"])) for p in pairs])
        bad = bad / torch.tensor([float(len(p["rejected_ids"])) for p in pairs])
    if name == "ipo":
        return ((good - bad - 1 / (2 * BETA)) ** 2).mean()
    gap = BETA * (good - bad)
    if name == "hinge":
        return torch.clamp(1 - gap, min=0).mean()
    if name == "robust":
        clean, flipped = -logsigmoid(gap), -logsigmoid(-gap)
        return (((1 - NOISE) * clean - NOISE * flipped) / (1 - 2 * NOISE)).mean()
    return -logsigmoid(gap).mean()


def models() -> tuple[Any, Any]:
    """A policy and the reference that it has moved away from, in double precision.

    GPT-2, as Llama's norms round to float32 whatever they are given.
    """
    return tiny_model("gpt2", 1).double(), tiny_model("gpt2", 0).double()


def ours(name: str, policy: Any, reference: Any, pairs: Any, max_tokens: int) -> Any:
    """Rung's gradient of all weights, by `full`."""
    objective = objectives.get("dpo")
    objective = objective.configured(
        objective.Config(beta=BETA, loss=name, label_noise=NOISE if name == "robust" else 0.0)
    )
    with torch.no_grad():
        fixed = [reply_logprobs(reference, pairs, side) for side in ("chosen_ids", "rejected_ids")]
    rows = [
        replace(row, extra={"reference": (float(good), float(bad))})
        for row, good, bad in zip(rows_of(pairs), *fixed, strict=True)
    ]
    bank = Bank(policy)
    adapter = tiny_adapter(bank, "full")
    named = dict(bank.model.named_parameters())
    for weight, tensor in adapter.weights.items():
        tensor.data = named[weight].detach().clone()
    slot = bank.add(adapter)
    passes = Passes(bank=bank, objective=objective, slot=slot)
    parameters = adapter.trainable().parameters()
    found = Gradients(passes, parameters, max_tokens, lambda _: None).of(rows, 0)
    gradients = dict(zip(adapter.weights, found.tensors, strict=True))
    bank.remove(slot)
    return found.metrics, gradients


@pytest.mark.parametrize("max_tokens", [1, 10_000])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_of_the_padded_batch(name, max_tokens):
    policy, reference = models()
    pairs = pairs_of_ids()
    metrics, gradients = ours(name, models()[0], reference, pairs, max_tokens)
    policy.requires_grad_(True)
    loss = expected_loss(name, policy, reference, pairs)
    loss.backward()
    assert metrics["loss"] == pytest.approx(float(loss.detach()), abs=1e-8)
    theirs = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    assert gradients.keys() <= theirs.keys() and len(gradients) > 10
    for weight, gradient in gradients.items():
        assert torch.allclose(gradient, theirs[weight], atol=1e-8, rtol=0), weight


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="needs bench/.peers: make bench/.peers/.stamp")
def test_loss_and_gradient_of_trl(tmp_path):
    """TRL 1.16 itself, in an environment of its own."""
    from safetensors.torch import load_file

    policy, reference = models()
    policy.save_pretrained(tmp_path / "policy")
    reference.save_pretrained(tmp_path / "reference")
    job = {
        "policy": str(tmp_path / "policy"), "reference": str(tmp_path / "reference"),
        "pairs": pairs_of_ids(), "beta": BETA, "label_smoothing": NOISE, "losses": LOSSES,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    arguments = [str(PEER), str(SCRIPT), str(tmp_path / "job.json"), str(tmp_path / "out.safetensors")]
    subprocess.run(arguments, check=True, capture_output=True)
    theirs = load_file(tmp_path / "out.safetensors")
    worst = 0.0
    for name in LOSSES:
        metrics, gradients = ours(name, models()[0], reference, pairs_of_ids(), 10_000)
        off = [abs(metrics["loss"] - float(theirs[f"{name}/loss"]))]
        off += [float((g - theirs[f"{name}/{w}"]).abs().max()) for w, g in gradients.items()]
        worst = max(worst, *off)
        print(f"{name}: loss {metrics['loss']:.9f}, off by {off[0]:.1e}, gradients {max(off[1:]):.1e}")
    assert worst < 1e-8


# --- from pairs of messages to a model --------------------------------------------------------------


def write_pairs(path: Path, count: int = 40) -> Path:
    words = ["sun", "rain", "tea", "bread"]
    rows = [
        {
            "prompt": f"Praise the {words[i % 4]}, number {i}.",
            "chosen": f"The {words[i % 4]} is good.",
            "rejected": f"No, the {words[i % 4]} is bad, bad, bad.",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan(name: str, pairs: Path, **settings: Any) -> Plan:
    fast = {"base": SCRATCH, "dtype": "float32", "batch_size": 8, "max_length": 200, "lr": 1e-2}
    return Plan.of(name, {**fast, "objective": "dpo", "data": str(pairs), **settings})


class First(Observer):
    def __init__(self):
        self.steps = []

    def step(self, event):
        self.steps.append(event.metrics)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "full"])
def test_training_starts_at_ln_2_and_learns_to_prefer(rung_home, tmp_path, method):
    pairs, told = write_pairs(tmp_path / "pairs.jsonl"), First()
    lr = 0.1 if method == "prompt_tuning" else 1e-2
    outcome = tune(plan("kind", pairs, method=method, epochs=4, lr=lr), told)
    assert told.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert told.steps[0]["reward_margin"] == pytest.approx(0, abs=1e-5)
    metrics = outcome.metrics
    assert metrics["test_loss"] < math.log(2) and metrics["test_reward_accuracy"] == 1.0
    assert metrics["test_reward_margin"] > 0 and metrics["validation_loss"] < math.log(2)
    assert outcome.plan.settings()["beta"] == 0.1
    assert Store.open().runs.get(outcome.run).objective == "dpo"


def test_a_child_is_measured_from_its_parent(rung_home, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    tune(plan("parent", pairs, epochs=4))
    told = First()
    tune(plan("child", pairs, parent="parent"), told)
    assert told.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert told.steps[0]["reward_accuracy"] < 1.0  # no gap yet


def test_a_resumed_run_ends_with_the_same_bits(rung_home, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    with pytest.raises(Interrupted) as stopped:
        tune(plan("one", pairs, epochs=3, save_every=1), StopsAt(3))
    resume(stopped.value.args[0])
    tune(plan("two", pairs, epochs=3))
    one, two = (folders.model_folder(n) / "adapter_model.safetensors" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_both_sides_have_one_prompt_and_only_replies_are_learnt():
    def said(role: str, text: str) -> Message:
        return {"role": role, "content": text}

    template = Template.of(tiny_tokenizer())
    pair = Pair(
        prompt=(said("user", "hi"), said("assistant", "hello"), said("user", "how are you")),
        chosen=(said("assistant", "well"),),
        rejected=(said("assistant", "why"),),
    )
    row = objectives.get("dpo").row(pair, template)
    chosen, rejected = row.sequences
    start = int(chosen.supervised.argmax())
    assert chosen.ids[:start].tolist() == template.prompt(list(pair.prompt))
    assert chosen.ids[:start].tolist() == rejected.ids[:start].tolist()
    for sequence, text in ((chosen, "well"), (rejected, "why")):
        assert template.decode(sequence.ids[sequence.supervised].tolist()).strip() == text
    assert row.weight == 1.0 and row.tokens < len(chosen) + len(rejected)


def test_what_does_not_fit_is_told(rung_home, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    long = {"prompt": "a", "chosen": "b", "rejected": "no " * 300}
    pairs.write_text(pairs.read_text() + json.dumps(long) + "\n")
    outcome = tune(plan("kind", pairs))
    told = [p.message for p in outcome.prepared.problems if "--max-length" in p.message]
    assert len(told) == 1 and told[0].startswith("1 row is longer") and "pairs.jsonl:41" in told[0]
    with pytest.raises(DataError):
        quotes = tmp_path / "quotes.jsonl"
        quotes.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
        tune(plan("other", quotes))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 0}, "--beta is 0, must be above 0"),
        ({"loss": "sigmoyd"}, "did you mean 'sigmoid'"),
        ({"objective": "dp"}, "--objective.*did you mean 'dpo'"),
        ({"objective": "sft", "beta": 0.2}, "--beta belongs to dpo, kto, not to sft"),
        ({"label_noise": 0.2}, "--label-noise is for --loss robust: say that too"),
        ({"loss": "orpo", "gamma": 1.0}, "--gamma is for --loss simpo"),
        ({"loss": "simpo", "reference": "base"}, "--reference is for a loss that has one"),
        ({"objective": "ppo", "reward": ["number"], "kl": 0, "kl_target": 6.0}, "--kl-target is for"),
        ({"objective": "grpo", "reward": ["number"], "kl_estimator": "k1"}, "is for --kl above 0"),
        ({"objective": "rloo", "reward": ["number"], "kl": 0, "reference": "base"}, "--kl above 0"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        plan("x", tmp_path / "pairs.jsonl", **settings)


def test_the_command(rung_home: Path, tmp_path: Path, ask: Ask) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    flags = ("--base", SCRATCH, "--dtype", "float32", "--max-length", 200, "--json")
    answer = ask("tune", "kind", "--data", pairs, "--objective", "dpo", "--method", "lora", *flags)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["model"] == "kind" and found["metrics"]["test_reward_accuracy"] >= 0
    assert "Traceback" not in answer.err and "⟦" in answer.err
