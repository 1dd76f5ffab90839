"""Models behind an API: asked and fine-tuned on Rung's own server, and everything that goes wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from types import SimpleNamespace

import pytest

from rung import methods
from rung.cli import run
from rung.engine.queues.remote import RemoteQueue
from rung.errors import ConfigError, Interrupted, MethodMisfit
from rung.evals.predict import predict_without_base
from rung.remote.model import RemoteAnswer
from rung.types import Decoding, Example, Prompt, Task
from tests.conftest import _prepare
from tests.methods.scripted import chat, fault, scripted
from tests.server.shop import base_folder, open_shop, rows
from tests.server.working import jobs_in_threads

__all__ = ["jobs_in_threads"]

HELLO = ({"role": "user", "content": "Hello"},)
SECRET = "sk-not-to-be-kept-anywhere"
KEPT = ("OPENAI_API_KEY", SECRET)
WORDS = Task("generation", "exact_match")
MOOD = Task("classification", "accuracy", ("sarcastic", "not sarcastic"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("remote") / "tiny")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        home = _prepare(tmp_path_factory.mktemp("remote-home") / "home")
        patch.setenv("RUNG_HOME", str(home))
        patch.setenv("OPENAI_API_KEY", SECRET)
        yield home


@pytest.fixture(scope="module")
def shop(base, home):
    served = open_shop(base)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("remote-data") / "rows.jsonl"
    path.write_bytes(rows(30))
    return path


@pytest.fixture(scope="module")
def asked_only(base, shop, data):
    """A model that passes on to the base that the server serves."""
    flags = ["--base", str(base), "--device", "cpu", "--dtype", "float32", "--data", str(data)]
    there = ["--url", shop.url, "--remote-model", "tiny", "--price-in", "3", "--price-out", "12"]
    assert run(["tune", "asked", "--method", "remote", *flags, *there]) == 0
    return "asked"


def api_of(url, model="m", **settings):
    from rung.remote.openai import OpenAIApi

    return OpenAIApi(url, model, **{"retries": 2, "timeout": 5.0, **settings})


def served_of(api, template=None):
    from rung.data import Template
    from rung.engine import ServedModel
    from tests.tokens import tiny_tokenizer

    return ServedModel("there", -1, template or Template.of(tiny_tokenizer()), remote=api)


def labelled(count):
    return [
        Example(
            ({"role": "user", "content": f"{i}"}, {"role": "assistant", "content": MOOD.labels[i % 2]})
        )
        for i in range(count)
    ]


def predicted(api, examples, task, progress=None):
    from rung.evals.predict import predict

    return predict(None, served_of(api), examples, task, progress=progress)


# --- against Rung's own server --------------------------------------------------------------------


def test_asked_behind_the_api_it_answers_as_the_base_itself(asked_only, base, capfd):
    from rung.models import load_engine

    questions = ["Say 7", "Say something else, please", "Hello"]
    engine = load_engine([asked_only], base=str(base), memory=1 << 28)
    bare = next(n for n, m in engine.models.items() if m.slot == -1)
    from rung.engine import GenerationRequest

    answers = {}
    for name in (asked_only, bare):
        model = engine.model(name)
        talks = [({"role": "user", "content": q},) for q in questions]
        answers[name] = engine.generate(
            GenerationRequest(name, model.prompt(t), Decoding(max_tokens=9)) for t in talks
        )
    assert [a.text for a in answers[asked_only]] == [a.text for a in answers[bare]]
    assert any(a.text for a in answers[bare])
    for there, here in zip(answers[asked_only], answers[bare], strict=True):
        assert there.prompt_tokens == here.prompt_tokens and there.finish_reason == here.finish_reason
        assert there.completion_tokens == here.completion_tokens
    engine.stop()


def test_eval_compares_it_with_the_base_on_the_same_items(asked_only, base, data, capfd):
    common = ["--data", str(data), "--device", "cpu", "--dtype", "float32", "--json"]
    assert run(["eval", asked_only, str(base), *common]) == 0
    told = json.loads(capfd.readouterr().out)
    first, second = told["models"] if "models" in told else told["results"]
    assert first["value"] == second["value"] and first["n"] == second["n"] > 0


def test_chat_streams_from_it(asked_only, shop, capfd):
    assert run(["chat", asked_only, "-p", "Say 7", "--max-tokens", "9", "--device", "cpu"]) == 0
    out = capfd.readouterr().out
    from tests.server.shop import client_of

    with client_of(shop) as client:
        there = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Say 7"}], max_tokens=9, temperature=0
        )
    assert out == there.choices[0].message.content + "\n"


def test_it_is_served_beside_others_as_a_model_that_passes_on(asked_only, base, shop):
    import openai

    from tests.server.shop import client_of

    front = open_shop(base, [asked_only])
    try:
        with client_of(front) as near, client_of(shop) as far:
            wanted = {"messages": list(HELLO), "max_tokens": 40, "temperature": 1.0}
            for seed in range(20):  # until the random model says more than a word
                wanted["seed"] = seed
                own = far.chat.completions.create(model="tiny", **wanted)
                if own.usage.completion_tokens == 40:
                    break
            passed = near.chat.completions.create(model=asked_only, **wanted)
            assert passed.choices[0].message.content == own.choices[0].message.content
            assert passed.usage.prompt_tokens == own.usage.prompt_tokens
            assert passed.usage.completion_tokens == own.usage.completion_tokens
            pieces = list(near.chat.completions.create(model=asked_only, stream=True, **wanted))
            text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
            assert text == own.choices[0].message.content and len(pieces) > 3
            for refused in ({"logprobs": True}, {"response_format": {"type": "json_object"}}):
                with pytest.raises(openai.BadRequestError, match="behind an API"):
                    near.chat.completions.create(model=asked_only, **wanted, **refused)
            with pytest.raises(openai.BadRequestError, match="conversations only"):
                near.completions.create(model=asked_only, prompt="Hello", max_tokens=2)
    finally:
        front.stop()


def test_the_key_is_sent_and_kept_nowhere(asked_only, home):
    from rung.artefacts import folders

    settings = json.loads((folders.model_folder(asked_only) / "settings.json").read_text())
    assert settings["key_variable"] == "OPENAI_API_KEY" and settings["price_out"] == 12.0
    # By another process: to open and close SQLite's file in this one would drop its locks.
    places = [str(p) for p in home.iterdir() if p.name != "cache"]
    look = [subprocess.run(["grep", "-rlF", what, *places], capture_output=True) for what in KEPT]
    assert [found.stdout != b"" for found in look] == [True, False]
    with scripted(lambda path, body: chat("yes")) as server:
        api_of(server.url).ask(HELLO, Decoding())
        headers = {name.lower(): value for name, value in server.asked[0][2].items()}
        assert headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.usefixtures("jobs_in_threads")
def test_fine_tuned_there_it_answers_as_the_model_of_the_job(base, shop, data, capfd):
    flags = ["--base", str(base), "--device", "cpu", "--dtype", "float32", "--data", str(data)]
    there = ["--url", f"{shop.url}/v1", "--remote-model", "tiny", "--fine-tune", "--suffix", "far"]
    prices = ["--remote-epochs", "1", "--price-training", "1000000"]
    assert run(["tune", "taught", "--method", "remote", *flags, *there, *prices]) == 0
    from rung.store import Store

    record = Store.open().models.get("taught")
    name = record.metrics["remote_model"]
    assert name.startswith("ft:tiny:rung:far:") and record.metrics["job"].startswith("ftjob-")
    assert record.metrics["training_money"] == record.metrics["trained_tokens"] > 100
    assert shop.engine.model(name).slot != -1
    said = []
    for model in ("taught", str(base)):
        capfd.readouterr()
        assert run(["chat", model, "-p", "Say 3", "--max-tokens", "12", "--device", "cpu"]) == 0
        said.append(capfd.readouterr().out)
    taught, bare = said
    from tests.server.shop import client_of

    with client_of(shop) as client:
        own = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Say 3"}], max_tokens=12, temperature=0
        )
    assert taught == own.choices[0].message.content + "\n" != bare


@pytest.mark.usefixtures("jobs_in_threads")
def test_a_run_that_goes_on_follows_the_job_that_it_started(shop, data, tmp_path):
    from rung.data import load
    from rung.data.knobs import DataKnobs
    from rung.methods.base import Study
    from rung.remote import finetune

    examples, told = list(load(DataKnobs(data=str(data))).examples), []
    stops = iter([True])
    study = Study(None, None, WORDS, examples[:14], [], 0, tmp_path, told.append)
    study.stopping = lambda: next(stops, False)
    with pytest.raises(Interrupted):
        finetune.tune(api_of(shop.url, "tiny", timeout=60.0), study, 1)
    assert "goes on without you" in told[-1]
    job = json.loads((tmp_path / finetune.STATE).read_text())["job"]
    again = finetune.tune(api_of(shop.url, "tiny", timeout=60.0), study, 1)
    assert again.job == job and again.model.startswith("ft:tiny:")
    assert any(note.startswith(f"going on with job {job}") for note in told)


# --- labels ---------------------------------------------------------------------------------------


def test_labels_are_chosen_by_the_first_tokens_probabilities():
    """The text says one thing, the tokens that can begin a label another: those decide."""
    tokens = {"Hm": -0.1, "not": -3.0, " sarc": -4.0, "!": -5.0}
    with scripted(lambda path, body: chat("Hm, hard to say", tokens)) as server:
        seen = []
        answers = predicted(api_of(server.url), labelled(3), MOOD, lambda *told: seen.append(told))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert answers.texts == ["not sarcastic"] * 3
    assert answers.scores[0] == pytest.approx({"sarcastic": -4.0, "not sarcastic": -3.0})
    assert (answers.prompt_tokens, answers.completion_tokens) == (30, 6)
    body = server.asked[0][1]
    assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["temperature"] == 0
    assert body["messages"] == [{"role": "user", "content": "0"}] or len(server.asked) == 3


@pytest.mark.parametrize(
    ("tokens", "says"),
    [(None, "Not sarcastic."), ({"n": -0.1}, "not sarcastic"), ({"x": -0.1}, "NOT SARCASTIC")],
    ids=["none", "beginning", "foreign"],
)
def test_without_telling_tokens_the_label_is_read_out(tokens, says):
    with scripted(lambda path, body: chat(says, tokens)) as server:
        answers = predicted(api_of(server.url), labelled(2), MOOD)
    assert answers.texts == ["not sarcastic"] * 2
    assert (answers.scores is None) == (tokens is None or "n" not in tokens)


@pytest.mark.parametrize("says", ["Paris.", "paris", " **Paris**", "It is Paris, of course"])
def test_what_a_row_offers_is_read_out_too(says):
    row = Example(
        ({"role": "user", "content": "the capital?"}, {"role": "assistant", "content": "Paris"}),
        choices=("Lyon", "Paris"),
    )
    with scripted(lambda path, body: chat(says)) as server:
        answers = predicted(api_of(server.url), [row], Task("multiple_choice", "accuracy"))
    assert answers.texts == ["Paris"] and answers.scores is None
    looked_up = SimpleNamespace(remote=SimpleNamespace(ask=lambda *_: RemoteAnswer(says)))
    found = predict_without_base(looked_up, [row], Task("multiple_choice", "accuracy"))
    assert found.texts == ["Paris"]


def test_a_token_that_begins_several_labels_does_not_decide():
    from rung.remote.batch import label_scores

    labels = ("positive", "possible", "negative")
    assert label_scores({"pos": -0.1, "neg": -3.0}, labels, str) is None
    found = label_scores({"pos": -3.0, "neg": -0.1}, labels, str)
    assert max(found, key=found.get) == "negative"
    assert label_scores({}, labels, str) is None


def test_what_a_server_does_not_take_is_left_out_from_then_on():
    def script(path, body):
        for name in ("logprobs", "max_tokens", "temperature"):
            if name in body:
                return fault(400, f"Unsupported parameter: '{name}' is not supported", name)
        return chat("sarcastic")

    api = api_of("http://127.0.0.1:1", at_once=1)
    with scripted(script) as server:
        api.url = f"{server.url}/v1"
        assert predicted(api, labelled(4), MOOD).texts == ["sarcastic"] * 4
        assert len(server.asked) == 4 + 3
        assert server.asked[-1][1]["max_completion_tokens"] >= 16


def test_a_value_that_a_server_does_not_take_takes_nothing_from_others():
    """One client's temperature of 1.5 took every other's 0 away: greedy answers varied."""
    from rung.remote.openai import RemoteRefusal

    def script(path, body):
        if body.get("temperature", 0) > 1:
            told = "temperature must be at most 1, with stop, seed and top_p as they are"
            return fault(400, told, "temperature")
        return chat("yes")

    with scripted(script) as server:
        api = api_of(server.url)
        with pytest.raises(RemoteRefusal, match="must be at most 1"):
            api.ask(HELLO, Decoding(temperature=1.5, stop=("END",)))
        assert api.ask(HELLO, Decoding(stop=("END",))).text == "yes"
        last = server.asked[-1][1]
    assert last["temperature"] == 0 and last["stop"] == ["END"] and len(server.asked) == 2


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"message": "Unrecognized request argument supplied: seed"}, "seed"),
        ({"message": "Only 1", "param": "temperature", "code": "unsupported_value"}, "temperature"),
        ({"message": "'top_p' does not support 0.5"}, "top_p"),
        ({"message": "unknown role in messages: stopper"}, None),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "stop"], "msg": "Extra inputs",
                      "input": {"seed": 3}}]}, "stop"),
        ({"detail": [{"type": "less_than", "loc": ["body", "top_p"], "msg": "too large",
                      "input": {"seed": 3}}]}, None),
    ],
)  # fmt: skip
def test_what_a_refusal_is_about(body, named):
    from rung.remote.openai import refused

    told = SimpleNamespace(
        body=body, code=body.get("code"), param=body.get("param"), message=str(body)
    )  # fmt: skip
    assert refused(told, dict.fromkeys(("seed", "temperature", "top_p", "stop"))) == named


def test_penalties_are_passed_on():
    with scripted(lambda path, body: chat("yes")) as server:
        api_of(server.url).ask(HELLO, Decoding(presence_penalty=1.0, frequency_penalty=-0.5))
        api_of(server.url).ask(HELLO, Decoding())
    first, second = (body for _, body, _ in server.asked)
    assert (first["presence_penalty"], first["frequency_penalty"]) == (1.0, -0.5)
    assert not {"presence_penalty", "frequency_penalty"} & second.keys()


@pytest.mark.parametrize(
    "option", [{"logit_bias": {5: 1.0}}, {"top_k": 3}, {"min_p": 0.1}, {"repetition_penalty": 1.2}]
)
def test_what_an_api_cannot_be_asked_is_refused(option):
    queue, (name,) = RemoteQueue(4), option
    with pytest.raises(ConfigError, match=f"behind an API: {name} is not passed on"):
        queue.prepare(waiting(Decoding(**option)), served_of(api_of("http://127.0.0.1:1")))


def waiting(decoding, deadline=None):
    from rung.engine.request import Generation, GenerationRequest

    prompt = Prompt((1, 2), HELLO)
    return Generation(GenerationRequest("there", prompt, decoding, deadline=deadline))


# --- what goes wrong ------------------------------------------------------------------------------


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def refuses(status, message):
    def script(path, body):
        if path.endswith("/models"):
            listed = [
                {"id": n, "object": "model", "created": 0, "owned_by": "x"} for n in ("mini", "max")
            ]
            return 200, {"object": "list", "data": listed}
        return fault(status, message)

    return script


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (refuses(401, "Incorrect key"), "refuses the key in OPENAI_API_KEY (Incorrect key)"),
        (refuses(404, "no such thing"), "has no model 'mino', did you mean 'mini'?"),
        (refuses(429, "slow down"), "still limits requests after 3 tries (slow down): wait, or lower"),
        (refuses(500, "oh dear"), "answered 500: oh dear"),
        (refuses(400, "bad"), "answered 400: bad"),
        (lambda path, body: (200, "<html>hello</html>"), "does not answer as OpenAI's API does"),
        (lambda path, body: (200, {"choices": []}), "does not answer as OpenAI's API does"),
    ],
    ids=["key", "model", "limit", "broken", "refused", "page", "empty"],
)
def test_faults_of_a_server_are_one_line(script, says, monkeypatch):
    from rung.remote.openai import RemoteFault

    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    with scripted(script) as server, pytest.raises(RemoteFault) as failed:
        api_of(server.url, "mino").ask(HELLO, Decoding())
    assert says in str(failed.value) and "\n" not in str(failed.value)
    assert "a-key" not in str(failed.value)


def test_a_missing_key_says_which_variable(monkeypatch):
    from rung.remote.openai import RemoteFault

    monkeypatch.delenv("OTHER_KEY", raising=False)
    with scripted(refuses(401, "No key")) as server, pytest.raises(RemoteFault, match="set OTHER_KEY"):
        api_of(server.url, key_variable="OTHER_KEY").ask(HELLO, Decoding())


def test_nobody_there_and_nobody_in_time():
    from rung.remote.openai import RemoteFault

    with pytest.raises(RemoteFault, match=r"cannot reach http://127.* \(.*refused.*\): check --url"):
        api_of(f"http://127.0.0.1:{closed_port()}", retries=0).ask(HELLO, Decoding())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RemoteFault, match=r"no answer within 0\.2 s: raise --timeout"):
            api_of(url, retries=0, timeout=0.2).ask(HELLO, Decoding())


def test_a_deadline_holds_for_all_tries():
    from rung.remote.openai import RemoteFault

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(RemoteFault, match=r"no answer within 0\.3 s: raise"):
            api_of(url, retries=4, timeout=60.0).ask(HELLO, Decoding(), timeout=0.3)
        assert time.monotonic() - began < 5  # four more tries of a minute each, before
    left = iter([fault(429, "slow down")] * 2)
    with scripted(lambda path, body: next(left, chat("yes"))) as server:
        assert api_of(server.url).ask(HELLO, Decoding(), timeout=30.0).text == "yes"
        assert len(server.asked) == 3
    with scripted(refuses(429, "slow down")) as server:
        with pytest.raises(RemoteFault, match="still limits"):
            api_of(server.url).ask(HELLO, Decoding(), timeout=30.0)
        assert len(server.asked) == 3


def test_an_answer_that_drips_is_ended_at_its_deadline():
    from rung.engine.request import DeadlineExceeded
    from rung.remote.model import RemoteAnswer, RemoteModel

    class Dripping(RemoteModel):
        at_once = 1

        def ask(self, messages, decoding, *, heard=None, **_):
            pieces = 0
            while heard("drip ") and pieces < 1000:
                pieces += 1
                time.sleep(0.01)
            return RemoteAnswer("drip " * pieces)

    queue, generation = RemoteQueue(4), waiting(Decoding(), deadline=0.2)
    generation.expires = time.monotonic() + 0.2
    with pytest.raises(DeadlineExceeded):
        queue._answer(generation, served_of(Dripping()))


def test_a_limit_that_passes_is_waited_for():
    left = iter([fault(429, "slow down")] * 2)
    with scripted(lambda path, body: next(left, chat("yes"))) as server:
        assert api_of(server.url).ask(HELLO, Decoding()).text == "yes"
        assert len(server.asked) == 3


def test_the_first_failure_ends_the_asking_and_so_does_the_user():
    from rung.remote.batch import ask_all
    from rung.remote.openai import RemoteFault

    many = [HELLO] * 40
    with scripted(refuses(403, "no")) as server, pytest.raises(RemoteFault):
        ask_all(api_of(server.url, at_once=2), many, [Decoding()] * 40)
    assert len(server.asked) < 10
    with scripted(lambda path, body: chat("yes")) as server, pytest.raises(Interrupted):
        ask_all(api_of(server.url, at_once=2), many, [Decoding()] * 40, stopping=lambda: True)
    assert len(server.asked) < 40


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x", "http://", "http://a:b@host/v1", "http://h/v1?key=1", "http://[x"],
)
def test_an_address_that_is_none_is_refused(url):
    from rung.remote.openai import address

    with pytest.raises(ConfigError, match="--url"):
        address(url)


def test_a_host_alone_means_v1():
    from rung.remote.openai import address

    assert address("http://h:80") == address("http://h:80/") == "http://h:80/v1"
    assert address("https://h/openai/v1/") == "https://h/openai/v1"


def test_what_it_needs_and_what_it_cannot_do():
    method = methods.get("remote")
    told = method.Config(url="http://h", remote_model="m")
    assert method.unsuited(WORDS, told) is None and method.misfit(None, told) is None
    assert "--url" in method.unsuited(WORDS, method.Config()) and "--url" in method.misfit(
        None, method.Config(url="http://h")
    )
    assert "how likely" in method.unsuited(Task("language_modelling", "perplexity"), told)
    from rung.methods.remote import _api

    with pytest.raises(ConfigError, match="never a flag"):
        _api(method.Config(url="http://h", remote_model="m", key_variable="sk-123"))


def test_few_rows_are_not_worth_a_job(tmp_path):
    from rung.methods.base import Study

    method = methods.get("remote")
    config = method.Config(url="http://127.0.0.1:1", remote_model="m", fine_tune=True)
    study = Study(None, None, MOOD, labelled(9), [], 0, tmp_path, print)
    with pytest.raises(MethodMisfit, match="10 training rows at least, here are 9"):
        method.fit(study, config)


def test_settings_that_are_damaged_are_named():
    from rung.errors import ArtefactError
    from rung.forward.adapter import Adapter

    method = methods.get("remote")
    settings, tensors = method.to_files(Adapter(remote=api_of("http://h", price_in=2.0)), None, None)
    again = method.from_files(json.loads(json.dumps(settings)), tensors, None).remote
    assert (again.url, again.model, again.price_in) == ("http://h/v1", "m", 2.0)
    assert again.money(1_000_000, 0) == 2.0 and os.environ.get("OPENAI_API_KEY", "") not in settings
    for name, value in (
        ("url", 5),
        ("url", "nowhere"),
        ("model", ""),
        ("at_once", "8"),
        ("price_in", -1.0),
    ):
        with pytest.raises(ArtefactError):
            method.from_files({**settings, name: value}, {}, None)
    with pytest.raises(ArtefactError):
        method.from_files({}, {}, None)
