"""Picture classifiers behind the API: chat, moderation, limits, and that nothing is fetched."""

from __future__ import annotations

import base64

import pytest
import torch

from rung import bases
from rung.data.picture_template import PictureTemplate
from rung.engine import Engine, ServedModel
from rung.forward.adapter import Adapter
from rung.forward.lora import LoraOp
from rung.forward.opening import open_bank
from rung.forward.picture_classifier import Linear
from rung.methods import layers
from tests.pictures.conftest import as_bytes, drawn
from tests.server.conftest import serve

LABELS = ("safe", "violence")


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def part(text: str) -> dict:
    return {"type": "image_url", "image_url": {"url": text}}


@pytest.fixture(scope="module")
def server(encoder_folder):
    opened = open_bank(bases.resolve(str(encoder_folder("dinov2"))))
    assert isinstance(opened.template, PictureTemplate)
    generator = torch.Generator().manual_seed(5)
    models = {"bare": ServedModel.of("bare", -1, opened.template)}
    drawn_of = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    ops = {
        place: LoraOp(drawn_of(2, wide), drawn_of(out, 2), 0.1)
        for place, (_, wide, out) in layers.projections(opened.bank).items()
    }
    for name in ("one", "two", "low-rank"):
        width = opened.bank.width
        tensors = {"weight": torch.randn(2, width, generator=generator), "bias": torch.zeros(2),
                   "mean": torch.zeros(width), "scale": torch.ones(width)}  # fmt: skip
        linear = ops if name == "low-rank" else {}
        adapter = Adapter(linear=linear, classifier=Linear(LABELS, tensors))
        models[name] = ServedModel.of(name, opened.bank.add(adapter), opened.template, adapter)
    served = serve(Engine(opened.bank, models), moderation="one")
    yield served
    served.stop()


@pytest.fixture
def http(server):
    import httpx

    with httpx.Client(base_url=server.url, timeout=20) as made:
        yield made


def chat(http, parts, model="one", **more):
    body = {"model": model, "messages": [{"role": "user", "content": parts}], **more}
    return http.post("/v1/chat/completions", json=body)


PICTURE = as_bytes(drawn((200, 90, 30)))


def expected(server, name, data=PICTURE):
    from rung.pictures import picture
    from rung.types import Prompt

    message = {"role": "user", "content": "", "pictures": (picture(data)[0],)}
    model, bank = server.engine.model(name), server.engine.bank
    told = model.classifier.probabilities(bank, model.slot, [Prompt((0,), (message,))])[0]
    return LABELS[int(told.argmax())], told


@pytest.mark.parametrize("name", ["one", "low-rank", "two"])
def test_a_picture_is_answered_with_its_label(name, server, http):
    answer = chat(http, [{"type": "text", "text": "What is it?"}, part(url(PICTURE))], name)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["choices"][0]["message"]["content"] == expected(server, name)[0]
    assert found["usage"]["prompt_tokens"] == 1


def test_the_official_client_shows_a_picture(server):
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": [part(url(PICTURE))]}]
        found = client.chat.completions.create(model="one", messages=messages)
    assert found.choices[0].message.content == expected(server, "one")[0]


def test_a_picture_asked_about_again_is_not_encoded_again(server, http):
    own = as_bytes(drawn((1, 90, 30), seed=7))
    before = server.engine.bank.encoded
    for name in ("one", "two", "one", "two", "one"):
        assert chat(http, [part(url(own))], name).status_code == 200
    assert server.engine.bank.encoded == before + 1


def test_a_picture_is_moderated_by_a_classifier(server, http):
    found = http.post("/v1/moderations", json={"input": [part(url(PICTURE))]}).json()["results"][0]
    told = expected(server, "one")[1]
    assert found["category_scores"]["violence"] == pytest.approx(float(told[1]), abs=1e-5)
    assert found["flagged"] == bool(told[1] >= 0.5)
    assert found["category_applied_input_types"]["violence"] == ["image"]


def messages(http, *parts):
    said = [{"role": "user", "content": list(parts)}]
    return http.post("/v1/messages", json={"model": "one", "max_tokens": 4, "messages": said})


def block(**source):
    return {"type": "image", "source": source}


def in_base64(data: bytes) -> dict:
    text = base64.b64encode(data).decode()
    return block(type="base64", media_type="image/png", data=text)


def test_the_messages_api_takes_a_picture(server, http):
    for shown in (in_base64(PICTURE), block(type="url", url=url(PICTURE))):
        answer = messages(http, {"type": "text", "text": "What is it?"}, shown)
        assert answer.status_code == 200, answer.text
        assert answer.json()["content"][0]["text"] == expected(server, "one")[0]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (block(type="url", url="https://example.org/a.png"), "nothing is fetched"),
        (block(type="url", url="/etc/passwd"), "nothing is fetched"),
        (block(type="file", file_id="file-1"), "source"),
        (block(type="base64", data="aGk="), "needs 'media_type'"),
        (block(type="base64", media_type="image/png", data="@@"), "no valid base64"),
        (block(type="base64", media_type="image/tiff", data="aGk="), "media_type"),
        (block(type="url", url=url(PICTURE), data="aGk="), "takes no 'data'"),
        (in_base64(PICTURE[:100]), "cut short or damaged"),
        (block(), "source"),
    ],
)
def test_the_messages_api_refuses_what_is_no_picture(shown, told, http):
    answer = messages(http, shown)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert told in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://example.org/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("/etc/passwd", "nothing is fetched"),
        ("data:image/png,abc", "must read data:image/png;base64"),
        ("data:image/png;base64,@@@", "no valid base64"),
        (url(b""), "empty"),
        (url(b"no picture at all"), "no picture that can be read"),
        (url(PICTURE[:100]), "cut short or damaged"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(text, told, http):
    for answer in (
        chat(http, [part(text)]),
        http.post("/v1/moderations", json={"input": [part(text)]}),
    ):
        assert answer.status_code == 400
        assert told in answer.json()["error"]["message"]


def test_limits_of_a_request(http):
    answer = chat(http, [part(url(PICTURE))] * 17)
    assert answer.status_code == 400 and "at most 16" in answer.json()["error"]["message"]
    answer = chat(http, "no picture")
    assert answer.status_code == 400 and "there is none" in answer.json()["error"]["message"]
    answer = chat(http, [part(url(PICTURE))], "bare")
    assert answer.status_code == 400 and "writes no text" in answer.json()["error"]["message"]
    whole = {"role": "system", "content": [part(url(PICTURE))]}
    answer = http.post("/v1/chat/completions", json={"model": "one", "messages": [whole]})
    assert answer.status_code == 400 and "only users" in answer.json()["error"]["message"]


def test_a_text_model_refuses_a_picture(encoder_folder):
    import httpx

    from tests.engine.world import engine_of, tiny_llama

    served = serve(engine_of(tiny_llama()))
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            name = http.get("/v1/models").json()["data"][0]["id"]
            answer = chat(http, [part(url(PICTURE))], name)
    finally:
        served.stop()
    assert answer.status_code == 400
    assert "reads no pictures" in answer.json()["error"]["message"]
