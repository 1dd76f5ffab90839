"""Rollouts: drawn from the weights as they are, with the log-probabilities of the training pass."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rung.artefacts import folders
from rung.data import Template
from rung.errors import ConfigError, DataError, Interrupted
from rung.forward.bank import Bank
from rung.forward.policy import Policy
from rung.forward.trie import Sequence
from rung.objectives import Row, Setting
from rung.objectives.rollouts import RolloutSource
from rung.store import Store
from rung.train.job import resume, tune
from rung.train.observers import Observer
from rung.train.sources import Shuffled
from tests.models import tiny_adapter, tiny_model
from tests.objectives.drawn import chosen
from tests.tokens import tiny_tokenizer
from tests.train.conftest import SCRATCH
from tests.train.test_job import plan
from tests.train.test_kill import run_of, wait_for_steps
from tests.train.test_trackers import StopsAt

METHODS = ("lora", "prompt_tuning", "prefix_tuning", "ia3", "last_layers", "full")


def prompts(count: int = 6) -> list[Row]:
    return [
        Row(
            sequences=(Sequence((5, 6, 7 + i, 8)),), weight=1.0, origin=f"p:{i}",
            extra={"prompt": ({"role": "user", "content": f"{i}"},), "gold": "a", "columns": {}},
        )
        for i in range(count)
    ]  # fmt: skip


def source_of(method: str, family: str = "llama", name: str = "grpo", **settings: Any) -> RolloutSource:
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, method).trainable()
    template = Template.of(tiny_tokenizer())
    notes: list[str] = []
    setting = Setting(
        bank=bank, template=template, adapter=adapter, shuffled=Shuffled(prompts(), 3, 0), seed=7,
        note=notes.append, stopping=lambda: False,
    )  # fmt: skip
    given = {"reward": ["regex:[aeiou]"], "answer_tokens": 6, "answers": 3, **settings}
    source = chosen(name, **given).source(setting)
    bank.add(adapter)
    source.notes = notes
    return source


def apart(source: RolloutSource, rows: list[Row]) -> float:
    """How far recorded log-probabilities lie from those of a training pass."""
    worst = 0.0
    for row in rows:
        policy = Policy(source.setting.bank, row.sequences, source.slot)
        now = source.objective.logprobs(policy).detach().double().numpy()
        mine = np.concatenate([now[edges] for edges in policy.edges])
        worst = max(worst, float(np.abs(mine - row.extra["old"]).max()))
    return worst


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "drawing", [{}, {"temperature": 0.6}, {"temperature": 1.4, "top_p": 0.7}, {"top_k": 5}]
)
def test_recorded_logprobs_are_those_of_the_training_pass_also_after_steps(method, drawing):
    source = source_of(method, **drawing)
    for step in range(3):
        rows = source.rows(step)
        assert apart(source, rows) < 1e-4
        for tensor in source.setting.adapter.parameters().values():  # a step of training
            assert tensor.requires_grad
            # Larger steps make a net in which rounding alone comes to 1e-4 on some processors.
            tensor.data += 0.1 * torch.randn(
                tensor.shape, generator=torch.Generator().manual_seed(step)
            )
    assert any(len(s) > 5 for row in rows for s in row.sequences)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2", "bloom"])
def test_bases_of_other_kinds_too(family):
    source = source_of("lora", family, temperature=0.8)
    for step in range(2):
        assert apart(source, source.rows(step)) < 1e-4
        for tensor in source.setting.adapter.parameters().values():
            tensor.data += 0.1


def test_a_draw_is_a_function_of_seed_step_and_weights():
    first, again = source_of("lora", temperature=2.0), source_of("lora", temperature=2.0)
    drawn = [[s.ids.tolist() for row in first.rows(n) for s in row.sequences] for n in (0, 1, 2)]
    late = [s.ids.tolist() for row in again.rows(2) for s in row.sequences]  # without 0 and 1
    assert late == drawn[2] != drawn[0] and len({str(ids) for ids in drawn[0]}) > 4
    other = source_of("lora", temperature=2.0)
    next(iter(other.setting.adapter.parameters().values())).data += 1.0
    assert [s.ids.tolist() for row in other.rows(2) for s in row.sequences] != late


def test_groups_share_their_prompt():
    source = source_of("lora")
    read = []
    engine, _ = source.drawer._engine_of(source.slot)
    runner = engine.scheduler.runner
    plain = runner.read

    def counted(chunks):
        found = plain(chunks)
        read.append(len(found.hidden))
        return found

    runner.read = counted
    source.rows(0)
    # Three prompts of four tokens that begin alike, each for three answers, are seven tokens or so.
    assert read[0] <= 3 * 4


def test_cut_off_and_ended_answers_are_told_apart():
    source = source_of("lora")
    stop = source.setting.template.stop_ids
    groups = source.drawer.draw(
        prompts(), source.slot, 8, source.objective.decoding(temperature=2.0), (1,)
    )
    for one in (one for group in groups for one in group):
        assert one.truncated == (one.ids[-1] not in stop) or len(one.ids) == 6
        assert len(one.ids) == len(one.logprobs) <= 6


def test_what_teaches_nothing_is_told():
    source = source_of("lora", reward=["exact"])  # never right: every group is flat
    rows = source.rows(0)
    assert rows[0].extra["figures"]["flat_groups"] == 1.0
    assert any("same reward" in note for note in source.notes)
    source = source_of("lora", reward=["length:3t"], answer_tokens=2, mask_truncated=True)
    source.rows(0)
    assert any("cut off at 2 tokens" in note for note in source.notes)
    source = source_of("lora", reward=["similarity"])
    for row in source.setting.shuffled.every:
        row.extra["gold"] = None
    assert source.rows(0)[0].extra["figures"]["dead_groups"] == 1.0
    assert any("two scored answers" in note for note in source.notes)


def test_answers_that_nothing_scores_have_no_reward():
    """0.0 would be the best of all where rewards are below it."""
    source = source_of("lora", reward=["similarity"])
    held = prompts()
    known = source.measured(held, source.slot)
    assert {"reward", "unscored"} <= known[0].extra["figures"].keys()
    for row in held:
        row.extra["gold"] = None
    figures = source.measured(held, source.slot)[0].extra["figures"]
    assert figures["unscored"] == 1.0 and "reward" not in figures
    assert any("no held-out answer could be scored" in note for note in source.notes)


# --- whole runs -------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{i} + {i % 7}?", "completion": str(i + i % 7)} for i in range(40)]
    return write(tmp_path / "sums.jsonl", rows)


RUN = {
    "reward": ["regex:[aeiou]", "length:30"], "answer_tokens": 8, "batch_size": 4, "steps": 9,
    "epochs": 20, "save_every": 1, "lr": 1e-2, "temperature": 1.2, "answers": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("grpo", {"kl": 0.05}),
        ("grpo", {"updates": 2, "normalisation": "grpo", "method": "prefix_tuning"}),
        ("rloo", {"updates": 3}),
        ("ppo", {"updates": 2, "kl_target": 0.05, "kl_horizon": 40}),
    ],
)
def test_a_stopped_run_ends_with_the_same_bits(rung_home, sums, objective, more):
    more = {**more, "validation": 0}  # the last weights are kept, not the best
    whole = tune(plan("whole", sums, objective=objective, **{**RUN, **more}))
    expected = {n: t.detach().clone() for n, t in whole.adapter.parameters().items()}
    with pytest.raises(Interrupted) as stopped:
        tune(plan("cut", sums, objective=objective, **{**RUN, **more}), StopsAt(3))
    for at in (4, 7):
        with pytest.raises(Interrupted):
            resume(stopped.value.args[0], StopsAt(at))
    found = resume(stopped.value.args[0])
    assert found.state.step == whole.state.step == 9
    for name, tensor in found.adapter.parameters().items():
        assert torch.equal(tensor, expected[name]), name
    assert found.metrics == {**whole.metrics, "steps": 9}


def test_a_stop_while_answers_are_drawn_loses_no_step(rung_home, sums, monkeypatch):
    """Most of the time of such a run; also in a validation, which the resumed run makes up for."""
    from rung.objectives.rollouts import RolloutSource as Source

    settings = {**RUN, "save_every": 100, "eval_every": 3, "validation": 0.1}
    whole = tune(plan("whole", sums, objective="grpo", **settings))
    expected = {n: t.detach().clone() for n, t in whole.adapter.parameters().items()}

    def stopping_in(name, at):
        work, seen = getattr(Source, name), []

        def stopped(self, *given):
            seen.append(1)
            if len(seen) == at:
                raise Interrupted
            return work(self, *given)

        return stopped

    run = ""
    for name, at, wanted in (("_draw", 3, 2), ("measured", 1, 3), ("_draw", 3, 5)):
        with monkeypatch.context() as patch, pytest.raises(Interrupted) as told:
            patch.setattr(Source, name, stopping_in(name, at))
            resume(run) if run else tune(plan("cut", sums, objective="grpo", **settings))
        run = told.value.args[0]
        (kept,) = (rung_home / "runs" / run / "checkpoints").glob(f"*{wanted}*")
    found = resume(run)
    assert found.state.step == whole.state.step
    for name, tensor in found.adapter.parameters().items():
        assert torch.equal(tensor, expected[name]), name
    assert [e["step"] for e in found.state.history] == [e["step"] for e in whole.state.history]


class Collected(Observer):
    def __init__(self) -> None:
        self.rewards: list[float] = []

    def step(self, event: Any) -> None:
        self.rewards.append(event.metrics["reward"])


@pytest.mark.parametrize("objective", ["grpo", "rloo", "ppo"])
def test_reward_rises(rung_home, sums, objective):
    seen = Collected()
    settings = {
        **RUN,
        "steps": 40,
        "lr": 1e-2,
        "reward": ["regex:[aeiou]"],
        "save_every": 100,
        "method": "full",
    }
    settings |= {"batch_size": 8, "updates": 2} if objective == "ppo" else {}
    outcome = tune(plan("vowels", sums, objective=objective, **settings), seen)
    assert np.mean(seen.rewards[-6:]) > np.mean(seen.rewards[:6]) + 0.15, seen.rewards
    assert (
        "value" not in json.dumps([p.name for p in folders.model_folder("vowels").iterdir()])
        and outcome.metrics["test_reward"] >= outcome.metrics["test_reward_of_base"]
    )


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": f"Say {i}."} for i in range(30)],
        [{"messages": [{"role": "user", "content": f"Say {i}."}], "bonus": i} for i in range(30)],
        [{"question": f"Say {i}.", "answer": "a"} for i in range(30)],
        [{"prompt": f"Say {i}.", "chosen": "Yes.", "rejected": "No."} for i in range(30)],
    ],
)
def test_prompts_in_any_form(rung_home, tmp_path, rows):
    outcome = tune(
        plan("x", write(tmp_path / "p.jsonl", rows), objective="grpo", **{**RUN, "steps": 1})
    )
    assert outcome.state.step == 1
    prompts = [r.extra["prompt"][-1] for r in outcome.prepared.rows["train"]]
    assert all(p["role"] == "user" and p["content"].startswith("Say ") for p in prompts)


def test_test_prompts_that_are_trained_on_are_refused(rung_home, tmp_path):
    rows = [{"prompt": f"Say {i}."} for i in range(30)]
    data, test = write(tmp_path / "p.jsonl", rows), write(tmp_path / "t.jsonl", rows[:9])
    settings = {**RUN, "steps": 1, "test_data": str(test)}
    with pytest.raises(DataError, match="9 of 9 test rows are also in training.*--allow-leakage"):
        tune(plan("x", data, objective="grpo", **settings))


def test_lines_of_text_are_prompts_and_columns_reach_the_reward(rung_home, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"Say {i}.\n" for i in range(30)))
    tune(plan("x", tmp_path / "prompts.txt", objective="grpo", **{**RUN, "steps": 1}))
    (tmp_path / "own.py").write_text("def f(text, bonus=None):\n    return bonus\n")
    rows = [{"prompt": f"Say {i}.", "bonus": 2.5} for i in range(30)]
    settings = {**RUN, "steps": 1, "reward": [f"python:{tmp_path / 'own.py'}:f"]}
    seen = Collected()
    tune(plan("y", write(tmp_path / "p.jsonl", rows), objective="grpo", **settings), seen)
    assert seen.rewards == [2.5]


@pytest.mark.parametrize(
    ("settings", "fault", "said"),
    [
        ({"reward": []}, ConfigError, "--reward is missing"),
        ({"reward": ["numbr"]}, ConfigError, "did you mean 'number'"),
        ({"reward": ["model:nobody"]}, Exception, "nobody"),
        ({"answer_tokens": 10_000}, DataError, "no prompts are left"),
    ],
)
def test_mistakes_are_one_line(rung_home, sums, settings, fault, said):
    with pytest.raises(fault, match=said):
        tune(plan("x", sums, objective="grpo", **{**RUN, **settings}))


def test_a_reward_model_and_a_classifier_score(rung_home, tmp_path, sums):
    rows = [{"prompt": f"Praise {i}.", "chosen": "So good.", "rejected": "Bad bad."} for i in range(40)]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    judge = tune(plan("judge", pairs, objective="reward", steps=4))
    tune(plan("polite", sums, objective="ppo", **{**RUN, "steps": 2, "reward": ["model:judge"]}))
    labels = [{"text": f"row {i}", "label": ["nice", "nasty"][i % 2]} for i in range(40)]
    tune(plan("mood", write(tmp_path / "l.jsonl", labels), method="linear_probe"))
    settings = {**RUN, "steps": 1, "reward": ["model:mood/nice"]}
    tune(plan("nice", sums, objective="grpo", **settings))
    with pytest.raises(ConfigError, match="name the label"):
        tune(plan("nobody", sums, objective="grpo", **{**settings, "reward": ["model:mood"]}))
    with pytest.raises(ConfigError, match="is no reward model"):
        tune(plan("nobody", sums, objective="grpo", **{**settings, "reward": ["model:polite"]}))
    # A base from scratch is made for its data: the judge was loaded beside the policy's own.
    assert Store.open().models.get("polite").base != judge.model.base


def rung(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rung.cli", *arguments], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("objective", ["grpo", "ppo"])
def test_killed_runs_end_with_the_same_bits(rung_home, sums, objective):
    """kill -9 at random moments, `RUNG_KILLS` runs of each objective, 20 by default."""
    moments, kills = random.Random(1), int(os.environ.get("RUNG_KILLS", "20"))
    settings = [
        "--data", str(sums), "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--objective",
        objective, "--reward", "regex:[aeiou]", "--answer-tokens", "8", "--batch-size", "4", "--steps",
        "60", "--epochs", "90", "--save-every", "1", "--updates", "2", "--lr", "1e-2", "--validation",
        "0", "--max-tokens", "4096",
    ]  # fmt: skip
    whole = rung("tune", "whole", *settings)
    assert whole.wait() == 0, whole.stderr.read()
    expected = (folders.model_folder("whole") / "adapter_model.safetensors").read_bytes()
    killed = 0
    for i in range(kills):
        process = rung("tune", f"k{i}", *settings)
        for again in range(2):
            wait_for_steps(f"k{i}", process)
            time.sleep(moments.uniform(0, 3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            run = run_of(f"k{i}")
            killed += run.status == "interrupted"
            if run.status == "succeeded" or again == 1:
                break
            process = rung("resume", run.id)
        if run_of(f"k{i}").status != "succeeded":
            end = rung("resume", run_of(f"k{i}").id)
            assert end.wait() == 0, end.stderr.read()
        found = (folders.model_folder(f"k{i}") / "adapter_model.safetensors").read_bytes()
        assert found == expected, f"run {i} ended with other weights"
    print(f"{objective}: {kills} runs, {killed} kills, all ended bit-equal")
    assert killed >= kills * 0.5
