"""Best of n: the answer that the reward ranks first is given, wherever the model is asked."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from rung import methods
from rung.engine import GenerationRequest, ServedModel
from rung.engine.request import derive_seed
from rung.errors import ArtefactError, ConfigError, MethodMisfit
from rung.evals.predict import predict
from rung.forward.adapter import Adapter
from rung.methods.best_of_n import Ranked
from rung.methods.workload import Shape
from rung.models import load_engine
from rung.store import Store
from rung.train.job import tune
from rung.train.plan import Plan
from rung.types import Decoding, Prompt, Task
from tests.engine.world import engine_of, tiny_llama
from tests.methods.asking import again, row, study
from tests.train.conftest import SCRATCH

METHOD = methods.get("best_of_n")
TASK = Task("generation", "rouge_l")
QUESTION = [{"role": "user", "content": "Say something long"}]


def config(**more):
    return METHOD.Config(**{"reward": ["length:40"], **more})


def drawing(engine, decoding, count):
    """The answers that a model which ranks `count` of them chooses from, each drawn by itself."""
    model = engine.models["base"]
    requests = [
        GenerationRequest(
            "base", model.prompt(QUESTION),
            dataclasses.replace(decoding, temperature=decoding.temperature or 0.8,
                                seed=derive_seed(decoding.seed, i)), stop_ids=(),
        )
        for i in range(count)
    ]  # fmt: skip
    return [engine.generate([one])[0] for one in requests]


def world(talk):
    engine = engine_of(tiny_llama(), ())
    base = engine.models["base"]
    engine.load(dataclasses.replace(base, name="best", root="base", conversation=talk), None)
    return engine


class Longest(Ranked):
    """Ranks by the number of characters, and keeps what it was asked."""

    def score(self, bank, asked, answers):
        self._made.setdefault("seen", []).append((list(asked), list(answers)))
        return [None if not a else float(len(a)) for a in answers]


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("heat", [0.0, 1.3])
def test_the_given_answer_is_the_one_of_those_drawn_that_ranks_first(threaded, heat):
    talk = Longest(("length:40",), 5, 0.8)
    engine = world(talk)
    decoding = Decoding(max_tokens=12, temperature=heat, seed=7)
    drawn = drawing(engine, decoding, 5)
    best = max(drawn, key=lambda c: len(c.text))
    asked = GenerationRequest("best", engine.models["best"].prompt(QUESTION), decoding, stop_ids=())
    if threaded:
        engine.start()
        try:
            handle = engine.submit(asked)
            tokens = list(handle)
            found = handle.result(60)
        finally:
            engine.stop()
        assert "".join(t.text for t in tokens) == found.text
        assert [t.id for t in tokens] == list(best.ids)
    else:
        found = engine.generate([asked])[0]
    assert found.text == best.text and found.ids == best.ids
    assert found.completion_tokens == sum(len(c.ids) for c in drawn)  # what is paid for
    ((conversation, answers),) = talk._made["seen"]
    assert answers == [c.text for c in drawn] and conversation[-1]["content"] == "Say something long"


def test_the_prompt_is_read_once_for_all_answers_and_others_are_answered_beside():
    engine = world(Longest(("length:40",), 6, 0.9))
    read, run = [], engine.bank.run

    def runs(entering, *args, **settings):
        read.append(len(entering))
        return run(entering, *args, **settings)

    engine.bank.run = runs
    prompt = Prompt(tuple(range(40, 100)))
    requests = [GenerationRequest(n, prompt, Decoding(4, seed=1)) for n in ("best", "base")]
    together = engine.generate(requests)
    assert together[1].text == world(Longest()).generate([requests[1]])[0].text
    assert sum(read) <= len(prompt.ids) + 7 * 4, read  # tokens through the base: 7 answers of 4


def test_equal_answers_give_the_first_and_unscored_ones_come_last():
    talk = Longest(("length:40",), 3)
    assert talk.rank(None, QUESTION, ["ab", "cd", "e"]) == 0
    assert talk.rank(None, QUESTION, ["", "x", ""]) == 1
    assert talk.rank(None, QUESTION, ["", "", ""]) == 0


def test_cancelled_failed_and_broken_rankings_end_the_request():
    class Broken(Ranked):
        def score(self, bank, asked, answers):
            raise ZeroDivisionError("no")

    engine = world(Broken(("length:40",), 3)).start()
    try:
        asked = GenerationRequest("best", Prompt((40, 41, 42)), Decoding(200, seed=1), stop_ids=())
        gone = engine.submit(asked)
        gone.cancel()
        assert gone.result(60).finish_reason == "cancelled"
        short = dataclasses.replace(asked, decoding=Decoding(3, seed=1))
        with pytest.raises(Exception, match="ranking the answers of 'best' failed"):
            engine.submit(short).result(60)
        refused = dataclasses.replace(asked, prompt=Prompt(()))
        with pytest.raises(ConfigError, match="empty"):
            engine.submit(refused)
        base = dataclasses.replace(short, model="base")
        assert engine.submit(base).result(60).completion_tokens == 3  # others go on
    finally:
        engine.stop()
    assert not any(len(q) for q in engine.queues)


def test_its_cost_counts_every_answer():
    shape = Shape(rows=10, held=10, prompt=20.0, shared=0.0, reply=30.0, choices=0.0, letters=9.0,
                  labels=0, layers=2, width=8, weights=100.0, head=0.5)  # fmt: skip
    one, eight = (METHOD.answering(config(n=n), shape) for n in (2, 8))
    assert (one.written, eight.written) == (60.0, 240.0)
    assert eight.passes == 4 * one.passes


def test_it_is_found_kept_and_read_again(tmp_path):
    made = study(tmp_path, TASK, [row(f"q {i}", "a fair reply") for i in range(40)],
                 [row(f"h {i}", "a fair reply") for i in range(4)])  # fmt: skip
    fitted = METHOD.fit(made, config(n=3))
    figures = fitted.metrics
    assert figures["reward_best"] >= figures["reward_single"]
    assert figures["kl_at_most"] == pytest.approx(math.log(3) - 2 / 3)
    assert any("mean reward" in note for note in made.notes)
    talk = again(fitted.adapter, "best_of_n", made, tmp_path / "model")
    assert (talk.reward, talk.samples, talk.ranks) == (("length:40",), 3, True)
    model = ServedModel.of("best", -1, made.template, Adapter(conversation=talk))
    answers = predict(made.bank, model, made.validation, TASK)
    assert len(answers.texts) == 4 and answers.completion_tokens > 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"reward": "x", "n": 3, "temperature": 1}, {"reward": [], "n": 1, "temperature": 1}],
)
def test_damaged_settings_are_refused(settings):
    with pytest.raises(ArtefactError, match=r"settings\.json does not hold"):
        METHOD.from_files(settings, {}, None)


def test_what_cannot_be_ranked_is_refused_in_one_line(tmp_path):
    made = study(tmp_path, TASK)
    with pytest.raises(MethodMisfit, match="--reward is missing: name one of"):
        METHOD.fit(made, METHOD.Config())
    with pytest.raises(ConfigError, match="exact compares with the answer of the data"):
        METHOD.fit(made, config(reward=["length:9", "exact"]))
    labels = dataclasses.replace(made, task=Task("classification", "accuracy", ("a", "b")))
    with pytest.raises(MethodMisfit, match="nothing to rank"):
        METHOD.fit(labels, config())


def test_a_reward_model_of_the_same_base_ranks_on_the_bank_that_draws(tmp_path, rung_home):
    """From pairs to a judge, to a model that it ranks for, to a served answer."""
    pairs = [
        {"prompt": f"say {i}", "chosen": f"good {i} yes", "rejected": f"bad {i} no"} for i in range(40)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(p) + "\n" for p in pairs))
    fast = {"base": SCRATCH, "dtype": "float32", "data": str(data), "validation": 0.2}
    tune(Plan.of("judge", {**fast, "method": "linear_probe", "objective": "reward"}))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": p["prompt"], "completion": p["chosen"]}) + "\n"
                            for p in pairs))  # fmt: skip
    given = {**fast, "data": str(rows), "method": "best_of_n", "n": 3, "reward": ["model:judge"],
             "choose_rows": 4}  # fmt: skip
    outcome = tune(Plan.of("best", given))
    assert outcome.metrics["reward_best"] >= outcome.metrics["reward_single"]
    engine = load_engine(["best"])
    model, before = engine.model("best"), len(engine.bank.adapters)
    drawn = []
    score = Ranked.score

    def scores(self, bank, asked, answers):
        found = score(self, bank, asked, answers)
        drawn.append((bank, list(answers), found))
        return found

    asked = GenerationRequest("best", model.prompt(QUESTION), Decoding(8, seed=3), stop_ids=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranked, "score", scores)
        answer = engine.generate([asked])[0]
    ((bank, answers, found),) = drawn
    assert bank is engine.bank and answer.text == answers[found.index(max(found))]
    assert len(set(found)) > 1 and len(engine.bank.adapters) <= before + 1
    Store.open().models.remove("judge")
    with pytest.raises(Exception, match="judge"):
        load_engine(["best"]).generate([asked])
