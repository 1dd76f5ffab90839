"""From the store's names to an engine, and the verbs on top of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rung.errors import ConfigError, ModelNotFound
from tests.engine.world import tiny_llama
from tests.tokens import tiny_tokenizer

METHODS = ("lora", "prompt_tuning")


def base_folder(path: Path, seed: int = 0) -> Path:
    tiny_llama(seed).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def shop(rung_home, tmp_path):
    """A store with two models of one tiny base; returns the base's folder."""
    folder = base_folder(tmp_path / "tiny")
    for method in METHODS:
        keep(f"my-{method}", method, folder)
    return folder


def keep(name: str, method: str, folder: Path) -> None:
    """Make a model of a base and put it into the store, as a training does."""
    from rung import bases, methods
    from rung.artefacts import folders
    from rung.data import Template
    from rung.forward.bank import Bank
    from rung.methods import artefact
    from rung.store import Store
    from tests.models import tiny_adapter

    base = bases.load(bases.resolve(str(folder)))
    bank, chosen = Bank(base.model), methods.get(method)
    small = {"virtual_tokens": 3} if "virtual_tokens" in chosen.Config.__dataclass_fields__ else {}
    adapter, template = tiny_adapter(bank, method), Template.of(base.tokenizer)
    target = folders.model_folder(name)
    config = chosen.Config(**small)
    folders.write(
        target,
        lambda made: artefact.save(made, adapter, bank, chosen, config, base.info, template, {}),
    )
    with Store.open() as store:
        store.models.put(name, method=method, base=base.info, folder=target)


def test_loads_models_beside_their_base(shop):
    from rung import bases
    from rung.engine import GenerationRequest
    from rung.models import load_engine
    from rung.types import Decoding
    from tests.engine.world import engine_of

    engine = load_engine(["my-lora", "my-prompt_tuning"])
    assert set(engine.models) == {"tiny", "my-lora", "my-prompt_tuning"}
    served = engine.models["my-lora"]
    assert (served.root, served.parent) == ("tiny", "tiny")
    assert served.created > 0
    assert served.stop_ids == (tiny_tokenizer().eos_token_id,)
    prompt = served.prompt([{"role": "user", "content": "Hello"}])
    reference = engine_of(bases.load(bases.resolve(str(shop))).model, ())
    slot = reference.bank.add(engine.bank.adapters[served.slot])
    reference.models["my-lora"] = type(served)("my-lora", slot, served.template)
    requests = [GenerationRequest("my-lora", prompt, Decoding(12, 1.0, seed=1))]
    assert engine.generate(requests) == reference.generate(requests)


def test_a_base_alone_goes_by_the_name_it_was_asked_for(shop):
    from rung.models import load_engine

    assert set(load_engine([str(shop)]).models) == {"tiny", str(shop)}
    assert set(load_engine([], base=str(shop)).models) == {"tiny", str(shop)}


def test_refusals(shop, tmp_path):
    from rung.models import load_engine

    with pytest.raises(ConfigError, match="name a model"):
        load_engine([])
    with pytest.raises(ModelNotFound, match="did you mean 'my-lora'"):
        load_engine(["my-lor"])
    other = base_folder(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="'my-lora' stands on tiny and '.*other' on other"):
        load_engine(["my-lora", str(other)])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (1024, 0.0, 1.0)),
        ({"temperature": 0.3}, (1024, 0.0, 1.0)),
        ({"do_sample": True}, (1024, 1.0, 1.0)),
        (
            {"do_sample": True, "temperature": 0.3, "top_p": 0.9, "max_new_tokens": 7},
            (7, 0.3, 0.9),
        ),
    ],
)
def test_decoding_defaults_are_the_models_own(settings, expected):
    from rung.models import decoding_of

    found = decoding_of(settings)
    assert (found.max_tokens, found.temperature, found.top_p) == expected


def test_a_models_own_top_k_and_penalty_are_its_defaults():
    from rung.models import decoding_of

    drawn = decoding_of({"do_sample": True, "temperature": 1.0, "top_k": 1, "min_p": 0.1})
    assert (drawn.temperature, drawn.top_k, drawn.min_p) == (1.0, 1, 0.1)
    greedy = decoding_of({"do_sample": False, "top_k": 1, "repetition_penalty": 5.0})
    assert (greedy.temperature, greedy.top_k, greedy.repetition_penalty) == (0.0, 0, 5.0)


def test_chat_and_compare(shop, capsys, monkeypatch):
    import io

    from rung import cli

    asked = ["-p", "Hello", "--max-tokens", "9", "--temperature", "1", "--seed", "3"]
    assert cli.run(["chat", "my-lora", *asked]) == 0
    once = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    assert cli.run(["chat", "my-lora", *asked[2:]]) == 0
    assert capsys.readouterr().out == once != "\n"
    compared = ["compare", "my-lora", "my-prompt_tuning", *asked, "-p", "Bye"]
    assert cli.run([*compared, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [t["prompt"] for t in told] == ["Hello", "Bye"]
    assert list(told[0]["answers"]) == ["tiny", "my-lora", "my-prompt_tuning"]
    assert told[0]["answers"]["my-lora"]["text"] + "\n" == once
    assert cli.run(compared) == 0
    plain = capsys.readouterr().out
    assert all(a["text"] in plain for t in told for a in t["answers"].values())


def test_mistakes_are_one_line(rung_home, capsys):
    from rung import cli

    assert cli.run(["compare", "some"]) == 2
    expected = "rung: there is nothing to ask: give --prompt TEXT, once or more often\n"
    assert tuple(capsys.readouterr()) == ("", expected)
    assert cli.run(["chat", "nobody", "-p", "hi"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.run(["serve", "nobody", "--memory", "plenty"]) == 2
    expected = "rung: --memory is 'plenty': give a size such as 4GB or 512MB\n"
    assert capsys.readouterr().err == expected


def test_interactive_chat_remembers_and_forgets(shop, capsys):
    from rung.cli.conversation import Conversation
    from rung.cli.terminal import converse
    from rung.models import load_engine
    from rung.types import Decoding

    engine = load_engine(["my-lora"])
    talk = Conversation(engine, "my-lora", Decoding(5), "Be brief.")
    lines = iter(["Hello", "", "x" * 600, "Bye", "/clear", "Hello"])
    turns = []

    def answer():
        turns.append(list(talk.turns))
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    converse(talk, answer)
    engine.stop()
    assert [len(t) for t in turns] == [1, 3, 3, 3, 5, 1, 3]
    assert turns[0][0]["content"] == "Be brief."
    assert turns[1] == turns[6]
    captured = capsys.readouterr()
    assert "context of 'my-lora'" in captured.err
    assert captured.out.startswith(turns[1][2]["content"] + "\n")


def test_serve_greets_refuses_a_busy_port_and_ends_quietly(shop, capsys):
    from openai import OpenAI

    from rung import cli

    command = [sys.executable, "-u", "-m", "rung.cli", "serve", "my-lora", "--port", "0"]
    command += ["--memory", "100MB"]
    environment = {**os.environ, "RUNG_API_KEY": "secret"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = process.stdout.readline().removeprefix("serving at ").strip()
        greeting = "".join(iter(process.stdout.readline, "\n"))
        greeting += process.stdout.readline()
        assert address.startswith("http://127.0.0.1:") and address.endswith("/v1")
        client = OpenAI(base_url=address, api_key="secret", max_retries=0)
        assert {m.id for m in client.models.list()} == {"tiny", "my-lora"}
        hello = [{"role": "user", "content": "Hello"}]
        answer = client.chat.completions.create(model="my-lora", messages=hello, max_tokens=3)
        assert answer.usage.completion_tokens == 3
        port = address.split(":")[2].split("/")[0]
        assert cli.run(["serve", "my-lora", "--port", port]) == 2
        busy = f"rung: port {port} is in use: choose another with --port\n"
        assert capsys.readouterr().err == busy
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()
