"""Reward models: TRL's loss and gradients, and one token at which the reward is read, everywhere."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from rung import objectives
from rung.artefacts import folders
from rung.data import Template
from rung.errors import ConfigError
from rung.forward.bank import Bank
from rung.forward.reward_head import RewardHead
from rung.forward.trie import Sequence
from rung.models import load_engine, reward_model
from rung.objectives import Row
from rung.train.gradient import Gradients, Passes
from rung.train.job import tune
from tests.cli.conftest import Ask, ask
from tests.models import VOCABULARY, tiny_adapter, tiny_model
from tests.objectives.test_dpo import First, plan, write_pairs
from tests.tokens import tiny_tokenizer
from tests.train.conftest import SCRATCH

__all__ = ["ask"]
PEER = Path(__file__).parents[2] / "bench" / ".peers" / "bin" / "python"
SCRIPT = Path(__file__).parents[2] / "bench" / "peers" / "reward_trl.py"
ids = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=7)
PAIRS = st.lists(
    st.tuples(ids, ids, ids, st.floats(-2, 2, width=32)), min_size=1, max_size=5
)  # prompt, chosen, rejected, margin


def head_weight(seed: int = 3) -> torch.Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed))


def rows_of(pairs: Any) -> list[Row]:
    return [
        Row(
            sequences=(Sequence([*prompt, *chosen]), Sequence([*prompt, *rejected])),
            weight=1.0,
            extra={"margin": margin},
        )  # fmt: skip
        for prompt, chosen, rejected, margin in pairs
    ]


def ours(model: Any, pairs: Any, config: Any, max_tokens: int = 10_000) -> tuple[Any, dict[str, Any]]:
    """Rung's gradient of all weights by `full`, and of the head."""
    objective = objectives.get("reward")
    bank = Bank(model)
    adapter = tiny_adapter(bank, "full")
    named = dict(bank.model.named_parameters())
    for name, tensor in adapter.weights.items():
        tensor.data = named[name].detach().clone()
    adapter.reward = RewardHead(weight=head_weight().to(bank.dtype), token=2)
    passes = Passes(
        bank=bank, objective=objective.configured(objective.Config(**config)), slot=bank.add(adapter)
    )
    parameters = adapter.trainable().parameters()
    found = Gradients(passes, parameters, max_tokens, lambda _: None).of(rows_of(pairs), 0)
    gradients = dict(zip([*adapter.weights, "score.weight"], found.tensors, strict=True))
    bank.close()
    return found.metrics, gradients


def classifier(model: Any) -> Any:
    """transformers' model for the same weights and one label, as TRL trains it."""
    from transformers import AutoModelForSequenceClassification

    config = model.config
    config.num_labels, config.pad_token_id = 1, 0
    found = AutoModelForSequenceClassification.from_config(config).to(model.dtype).eval()
    found.base_model.load_state_dict(model.base_model.state_dict())
    found.score.weight.data = head_weight().to(model.dtype)[None]
    return found


def theirs(model: Any, pairs: Any, margin_scale: float, centre: float) -> tuple[Any, dict[str, Any]]:
    """The loss by TRL's formula on a padded batch, and its gradients."""
    found = classifier(model)
    whole = [[*p, *c] for p, c, _, _ in pairs] + [[*p, *r] for p, _, r, _ in pairs]
    width = max(map(len, whole))
    rows = torch.tensor([row + [0] * (width - len(row)) for row in whole])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole])
    chosen, rejected = found(input_ids=rows, attention_mask=mask).logits[:, 0].chunk(2)
    margins = torch.tensor([m for *_, m in pairs], dtype=chosen.dtype)
    loss = -logsigmoid(chosen - rejected - margin_scale * margins).mean()
    loss = loss + centre * ((chosen + rejected) ** 2).mean()
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in found.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=20, deadline=None)
@given(
    pairs=PAIRS, margin_scale=st.sampled_from([0.0, 1.0, 0.5]), centre=st.sampled_from([0.0, 0.3]),
    max_tokens=st.sampled_from([1, 10_000]),
)  # fmt: skip
def test_loss_and_gradients_of_the_padded_batch(family, pairs, margin_scale, centre, max_tokens):
    exact = torch.float64 if family == "gpt2" else torch.float32
    near = 1e-9 if family == "gpt2" else 1e-5
    metrics, gradients = ours(
        tiny_model(family).to(exact),
        pairs,
        {"margin_scale": margin_scale, "centre": centre},
        max_tokens,
    )
    loss, expected = theirs(tiny_model(family).to(exact), pairs, margin_scale, centre)
    assert metrics["loss"] == pytest.approx(float(loss), rel=near, abs=near)
    tied = {"lm_head.weight"}
    assert gradients.keys() - tied <= expected.keys() and "score.weight" in gradients
    scale = max(1.0, max(float(g.abs().max()) for g in expected.values()))
    for name, gradient in gradients.items():
        if name in expected:
            wanted = expected[name].reshape(gradient.shape)
            assert torch.allclose(gradient, wanted, atol=near * scale, rtol=0), name


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="needs bench/.peers: make bench/.peers/.stamp")
@pytest.mark.parametrize("margins", [False, True])
def test_loss_and_gradient_of_trl(tmp_path, margins):
    """TRL 1.16 itself, in an environment of its own."""
    from safetensors.torch import load_file

    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(3, VOCABULARY, (n,), generator=g).tolist()  # noqa: E731
    pairs = [(draw(5), draw(1 + i), draw(5 - i), 0.25 * i if margins else 0.0) for i in range(4)]
    classifier(tiny_model("gpt2").double()).save_pretrained(tmp_path / "model")
    job = {
        "model": str(tmp_path / "model"), "centre": 0.05, "margins": margins,
        "pairs": [
            {"chosen_ids": [*p, *c], "rejected_ids": [*p, *r], "margin": m} for p, c, r, m in pairs
        ],
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    arguments = [str(PEER), str(SCRIPT), str(tmp_path / "job.json"), str(tmp_path / "out.safetensors")]
    subprocess.run(arguments, check=True, capture_output=True)
    found = load_file(tmp_path / "out.safetensors")
    config = {"centre": 0.05, "margin_scale": 1.0 if margins else 0.0}
    metrics, gradients = ours(tiny_model("gpt2").double(), pairs, config)
    assert metrics["loss"] == pytest.approx(float(found["loss"]), abs=1e-9)
    for name, gradient in gradients.items():
        if name in found:
            assert torch.allclose(gradient, found[name].reshape(gradient.shape), atol=1e-9), name
    assert "score.weight" in found


# --- one place at which the reward is read ----------------------------------------------------------


def conversation(prompt: str, reply: str) -> Any:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def by_transformers(name: str, base: Any, texts: list[list[int]]) -> list[float]:
    """Scores of one text after another, from the folder's files and the base's own forward pass."""
    from peft import PeftModel
    from safetensors import safe_open

    from rung import bases

    folder = folders.model_folder(name)
    bare = bases.load(base).model
    model = PeftModel.from_pretrained(bare, str(folder)).base_model.model.base_model
    with safe_open(folder / "reward_head.safetensors", "pt") as file:
        weight, token = file.get_tensor("weight"), int(file.metadata()["token"])
    found = []
    with torch.no_grad():
        for ids in texts:
            closed = ids if ids[-1] == token else [*ids, token]
            found.append(
                float(model(input_ids=torch.tensor([closed])).last_hidden_state[0, -1] @ weight)
            )
    return found


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning", "last_layers", "ia3"])
def test_every_method_carries_a_reward_and_starts_at_ln_2(rung_home, tmp_path, method):
    pairs, told = write_pairs(tmp_path / "pairs.jsonl"), First()
    lr = 0.1 if method.startswith(("pre", "prompt")) else 1e-2
    outcome = tune(plan("judge", pairs, method=method, objective="reward", epochs=6, lr=lr), told)
    assert told.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert told.steps[0]["reward_accuracy"] == 0.5  # equal scores tell nothing
    assert outcome.metrics["test_reward_accuracy"] == 1.0
    assert outcome.metrics["test_loss_of_base"] == pytest.approx(math.log(2), abs=1e-6)
    model = reward_model("judge")
    good, bad = model.score(["Praise the tea, number 3."] * 2, ["The tea is good.", "No, bad, bad."])
    assert good > bad


def test_texts_and_conversations_are_read_at_the_token_that_training_read(rung_home, tmp_path):
    outcome = tune(plan("judge", write_pairs(tmp_path / "pairs.jsonl"), objective="reward", epochs=4))
    engine = load_engine(["judge"])
    model = engine.model("judge")
    template = model.template
    told = conversation("Praise the sun.", "The sun is good.")
    plain = template.encode("The sun is good.")
    rendered = [*template.prompt(told[:1]), *plain, template.stop_ids[0]]
    texts = [model.judged(told), model.judged("The sun is good.")]
    assert list(texts[0].ids) == rendered and list(texts[1].ids) == plain
    served = engine.score("judge", texts)
    expected = by_transformers("judge", outcome.prepared.base, [rendered, plain])
    assert served == pytest.approx(expected, abs=1e-5)
    library = reward_model("judge").score(["Praise the sun."], ["The sun is good."])
    assert library == pytest.approx(served[:1], abs=1e-6)


def test_a_padded_neighbour_and_a_shared_prompt_change_no_score(rung_home, tmp_path):
    tune(plan("judge", write_pairs(tmp_path / "pairs.jsonl"), objective="reward", epochs=2))
    model = reward_model("judge")
    answers = ["good", "good, very good indeed", "bad", "", "good"]
    together = model.score(["Praise it."] * 5, answers)
    assert together == pytest.approx([model.score(["Praise it."], [a])[0] for a in answers], abs=1e-5)
    assert together[0] == together[4]


def test_a_linear_probe_scores_by_states_of_the_bare_base(rung_home, tmp_path):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    outcome = tune(plan("probe", pairs, method="linear_probe", objective="reward"))
    assert outcome.metrics["held_out_accuracy"] > 0.9
    assert outcome.metrics["validation_reward_accuracy"] > 0.9
    model = reward_model("probe")
    good, bad = model.score(["Praise the tea, number 3."] * 2, ["The tea is good.", "No, bad, bad."])
    assert good > bad and model.head.boundary is not None


def test_a_reward_model_beside_a_policy_in_one_bank(rung_home, tmp_path):
    from rung import bases

    outcome = tune(plan("judge", write_pairs(tmp_path / "pairs.jsonl"), objective="reward", epochs=2))
    base = bases.load(outcome.prepared.base)
    bank = Bank(base.model, base.info.digest)
    policy = bank.add(tiny_adapter(bank, "lora", seed=5))
    judge = reward_model("judge", bank)
    assert judge.model.slot != policy
    expected = reward_model("judge").score(["Praise it."], ["good"])
    assert judge.score(["Praise it."], ["good"]) == pytest.approx(expected, abs=1e-6)


def test_what_a_reward_model_is_not_for_is_said(rung_home, tmp_path, ask: Ask):
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    tune(plan("judge", pairs, objective="reward"))
    answer = ask("compare", "judge", "--prompt", "hello")
    assert answer.code == 2 and "reward model" in answer.err and "Traceback" not in answer.err
    with pytest.raises(ConfigError, match="is a reward model, which writes no texts"):
        tune(plan("child", pairs, parent="judge"))
    with pytest.raises(ConfigError, match="--objective dpo does not go with it.*--objective reward"):
        plan("x", pairs, method="linear_probe")
    with pytest.raises(ConfigError, match="--centre is for trained methods"):
        plan("x", pairs, method="linear_probe", objective="reward", centre=0.1)
    with pytest.raises(ConfigError, match="is no reward model|is a base"):
        reward_model(SCRATCH)


def test_a_row_is_two_conversations_that_end_with_the_end_of_turn():
    from tests.objectives.test_dpo import Message, Pair

    template = Template.of(tiny_tokenizer())
    said = lambda role, text: Message(role=role, content=text)  # noqa: E731
    pair = Pair(
        prompt=(said("user", "hi"),), chosen=(said("assistant", "well"),),
        rejected=(said("assistant", "why"),), margin=2.0,
    )  # fmt: skip
    row = objectives.get("reward").row(pair, template)
    assert [s.ids[-1] for s in row.sequences] == [template.stop_ids[0]] * 2
    assert row.extra == {"margin": 2.0} and row.tokens < sum(map(len, row.sequences))
