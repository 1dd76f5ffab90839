"""Second names of models, settings of the chat template, and HEAD."""

from __future__ import annotations

import dataclasses

import httpx
import pytest

from rung.cli import run
from rung.data import Template
from rung.errors import ConfigError
from rung.methods.zero_shot import SystemPrompt
from rung.server.knobs import ServeKnobs
from rung.server.state import Settings
from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve

TURN = [{"role": "user", "content": "Say 3"}]
SAYS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if shout %}LOUD {% endif %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def served():
    engine = engine_of(tiny_llama())
    (name,) = [n for n, m in engine.models.items() if m.slot == -1]
    model = engine.model(name)
    tokenizer = model.template.tokenizer
    tokenizer.chat_template = SAYS
    engine.load(dataclasses.replace(model, template=Template.of(tokenizer)))
    settings = Settings(aliases={"gpt-4o": name}, template_settings=frozenset({"shout"}))
    made = serve(engine, settings=settings)
    yield made, name
    made.stop()


def ask(served, **said):
    body = {"messages": TURN, "max_tokens": 4, "temperature": 0, **said}
    return httpx.post(f"{served.url}/v1/chat/completions", json=body)


def test_a_model_answers_to_its_second_name(served):
    live, name = served
    one, other = ask(live, model=name).json(), ask(live, model="gpt-4o").json()
    assert one["choices"] == other["choices"] and other["model"] == "gpt-4o"
    listed = httpx.get(f"{live.url}/v1/models").json()["data"]
    assert {"gpt-4o", name} <= {m["id"] for m in listed}


def test_a_name_that_is_taken_or_nobody_is_refused():
    engine = engine_of(tiny_llama())
    name = next(iter(engine.models))
    for aliases, said in (({name: name}, "already"), ({"x": "nobody"}, "nobody")):
        with pytest.raises(Exception, match=said):
            serve(engine, settings=Settings(aliases=aliases))
    with pytest.raises(ConfigError, match="NAME=MODEL"):
        ServeKnobs(alias=["coach"])
    assert ServeKnobs(alias=["a=b=c"]).aliases == {"a=b": "c"}
    assert run(["serve", "--alias", "coach"]) == 2


def test_a_setting_of_the_template_is_heeded_where_it_is_allowed(served):
    live, name = served
    plain = ask(live, model=name).json()["usage"]["prompt_tokens"]
    loud = ask(live, model=name, chat_template_kwargs={"shout": True}).json()["usage"]["prompt_tokens"]
    assert loud > plain
    refused = ask(live, model=name, chat_template_kwargs={"whisper": True})
    assert refused.status_code == 400
    assert "allowed: shout" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/openapi.json", "/metrics"])
def test_head_is_get_without_the_body(served, path):
    live, _ = served
    got, headed = httpx.get(live.url + path), httpx.head(live.url + path)
    assert headed.status_code == got.status_code == 200
    assert headed.content == b"" and headed.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(live.url + "/v1/nowhere").status_code == 404
    assert httpx.head(live.url + "/v1/chat/completions").status_code == 405


def test_a_model_of_labels_answers_with_one_unless_the_request_says_otherwise():
    """As it was measured; its tools, a response format and the base's own name are heard as ever."""
    engine = engine_of(tiny_llama(), ())
    talk = SystemPrompt("Say yes or no.", labels=("yes", "no"))
    engine.load(dataclasses.replace(engine.model("base"), name="labels", conversation=talk))
    made = serve(engine)
    with httpx.Client(base_url=made.url, timeout=60) as http:

        def said(model="labels", **more):
            body = {"model": model, "messages": TURN, "max_tokens": 9, "temperature": 1.5, **more}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()["choices"]

        drawn = said(n=8)
        assert {one["message"]["content"] for one in drawn} <= {"yes", "no"}
        assert all(one["finish_reason"] == "stop" for one in drawn)
        form = {"type": "choice", "choice": ["never"]}
        assert said(response_format=form)[0]["message"]["content"] == "never"
        for free in (said("base", n=8), said(n=8, response_format={"type": "text"})):
            assert not {one["message"]["content"] for one in free} <= {"yes", "no"}
    made.stop()
