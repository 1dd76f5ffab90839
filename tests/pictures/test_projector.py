"""Projectors: language models that see. What a row holds, what is computed of it, kept and served."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

import rung
from rung import bases, methods
from rung.data import Template
from rung.errors import ArtefactError, DataError, MethodMisfit
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.methods import artefact
from rung.methods.base import Start
from rung.pictures import picture, tokens
from rung.server.chat_schema import ChatMessage
from rung.server.tools import conversation
from tests.engine.world import tiny_llama
from tests.pictures.conftest import COLOURS, as_bytes, drawn
from tests.pictures.test_server import part, url
from tests.server.conftest import serve
from tests.server.shop import base_folder
from tests.tokens import tiny_tokenizer

SIDE = 2


@pytest.fixture(scope="module")
def shown():
    """Three pictures by colour, kept alive."""
    return {n: picture(as_bytes(drawn(c)), n)[0] for n, c in COLOURS.items()}


@pytest.fixture
def template():
    from dataclasses import replace

    return replace(Template.of(tiny_tokenizer()), picture_tokens=SIDE**2)


def user(text, *pictures):
    return {"role": "user", "content": text, "pictures": pictures}


def sight_of(encoder_folder, kind, bank, seed=0):
    """A projector's adapter, far from where it begins so that it changes every answer."""
    method = methods.get("projector")
    config = method.Config(vision=str(encoder_folder(kind)), picture_side=SIDE)
    adapter = method.build(bank, config, Start(torch.Generator().manual_seed(seed)))
    for tensor in adapter.parameters().values():
        tensor.data *= 2
    return adapter


def said(text):
    return {"type": "text", "text": text}


def test_what_stands_for_a_picture_cannot_be_written(template, shown):
    from rung.data.encoding import PICTURE_MARK

    forged = template.prompt([user(f"a{PICTURE_MARK}b", shown["red"])])
    assert sum(i >= tokens.FIRST_ID for i in forged) == SIDE**2
    plain = Template.of(tiny_tokenizer())
    assert PICTURE_MARK in plain.decode(plain.prompt([{"role": "user", "content": PICTURE_MARK}]))
    with pytest.raises(DataError, match="reads no pictures"):
        plain.prompt([user("a", shown["red"])])


def reference(model, sight, ids):
    """Logits of a row by transformers, from embeddings put together here: (n, V)."""
    table = model.get_input_embeddings().weight
    rows = []
    for i in ids:
        if i < tokens.FIRST_ID:
            rows.append(table[i])
            continue
        encoder = sight.encoder.encoder
        pixels = encoder.pixels([tokens.picture_of(tokens.number_of(i))])
        maps = encoder.tokens(pixels)[:, encoder.family.front :].transpose(1, 2).unflatten(2, (4, 4))
        cells = maps.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).flatten(2).transpose(1, 2)[0]
        rows.append(sight.project(cells[tokens.place_of(i)]))
    with torch.no_grad():
        return model(inputs_embeds=torch.stack(rows)[None]).logits[0]


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_states_behind_pictures_are_those_of_transformers(kind, encoder_folder, template, shown):
    bank = Bank(tiny_llama())
    adapter = sight_of(encoder_folder, kind, bank)
    slot = bank.add(adapter)
    prompts = [
        template.prompt([user("Which is it?", shown["red"], shown["blue"])]),
        template.prompt([user("Which is it?", shown["red"], shown["green"])]),
        template.prompt([user("Which is it?", shown["blue"], shown["red"])]),
        template.prompt([user("No picture.")]),
    ]
    trie = bank.trie([Sequence(p, slot=slot) for p in prompts])
    shared = sum(map(len, prompts)) - len(trie)
    assert shared >= SIDE**2 + 3 * 5, "equal pictures at the same place are not shared"
    with torch.no_grad():
        hidden = bank.forward(trie)
        found = [bank.logits(hidden[torch.from_numpy(r)], [slot] * len(r)) for r in trie.rows]
    bank.close()
    for ours, prompt in zip(found, prompts, strict=True):
        theirs = reference(bank.model, adapter.sight, prompt)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_the_gradient_reaches_the_projector_alone_and_is_that_of_rows_by_themselves(
    encoder_folder, template, shown
):
    bank = Bank(tiny_llama())
    adapter = sight_of(encoder_folder, "dinov2", bank).trainable()
    slot, named = bank.add(adapter), adapter.parameters()
    prompts = [
        template.prompt([user("Which is it?", shown["red"], shown[other])])
        for other in ("blue", "green")
    ]

    def gradient(batches):
        total = 0.0
        for batch in batches:
            trie = bank.trie([Sequence(p, [False] + [True] * (len(p) - 1), slot=slot) for p in batch])
            words = trie.target < tokens.FIRST_ID
            hidden = bank.forward(trie)[trie.source[words]]
            logits = bank.logits(hidden, [slot] * len(hidden)).log_softmax(-1)
            told = logits.gather(1, trie.target[words][:, None])[:, 0]
            total = total - (told * trie.weight[words]).sum()
        return torch.autograd.grad(total, list(named.values()))

    assert set(named) == {f"sight.{n}" for n in ("first", "first_bias", "second", "second_bias")}
    for name, one, alone in zip(
        named, gradient([prompts]), gradient([[p] for p in prompts]), strict=True
    ):
        assert float(one.abs().max()) > 0, name
        torch.testing.assert_close(one, alone, atol=1e-5 * float(alone.abs().max()), rtol=1e-4)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    root = tmp_path_factory.mktemp("captions")
    rows = []
    for name, colour in COLOURS.items():
        for i in range(10):
            (root / f"{name}{i}.png").write_bytes(as_bytes(drawn(colour, seed=i)))
            rows.append({"image": f"{name}{i}.png", "caption": f"{name} {i % 3}"})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root / "captions.jsonl"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("lm") / "tiny")


def tuned(name, captions, language_model, vision, **settings):
    settings = {
        "validation": 0.2, "test": 0.2, "dtype": "float32", "device": "cpu", "epochs": 3.0, "lr": 1e-2,
        "picture_side": SIDE, "vision": str(vision), **settings,
    }  # fmt: skip
    return rung.tune(
        name, str(captions), base=str(language_model), method="projector", replace=True, **settings
    )


@pytest.fixture(scope="module")
def seer(home, captions, language_model, encoder_folder):
    return tuned("seer", captions, language_model, encoder_folder("dinov2"))


def test_a_projector_learns_and_its_folder_answers_alike(seer, shown):
    from rung.forward.opening import open_bank

    metrics = seer.metrics
    assert metrics["test_loss"] < metrics["test_loss_of_base"]
    prompt = seer.prepared.template.prompt([user("", shown["red"])])
    fresh = open_bank(bases.resolve(seer.prepared.base.spec)).bank
    adapter, about = artefact.load(seer.model.folder, fresh)
    assert about["method"] == "projector"
    found = []
    for bank, one in ((seer.prepared.bank, seer.adapter), (fresh, adapter)):
        slot = bank.add(one)
        with torch.no_grad():
            found.append(bank.forward(bank.trie([Sequence(prompt, slot=slot)])))
        bank.remove(slot)
    torch.testing.assert_close(*found)


def test_lineage_and_card_name_both_bases(seer, encoder_folder):
    from pathlib import Path

    store = rung.Store.open()
    bases_of = {n.name for n in store.lineage("seer").walk() if n.kind == "base"}
    assert len(bases_of) == 2 and bases.resolve(str(encoder_folder("dinov2"))).name in bases_of
    card = (Path(seer.model.folder) / "README.md").read_text()
    assert "encoder dinov2" in card


# --- served -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def names(seer, captions, language_model, encoder_folder, tmp_path_factory):
    """Two projectors with encoders of their own, LoRA, and a classifier of pictures."""
    tuned("second", captions, language_model, encoder_folder("clip"), seed=3)
    rung.tune(
        "words", [{"prompt": f"Say {i}", "completion": f"It is {i}."} for i in range(20)],
        base=str(language_model), method="lora", replace=True, dtype="float32", device="cpu",
    )  # fmt: skip
    root = tmp_path_factory.mktemp("labels")
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for i in range(8):
            (root / name / f"{i}.png").write_bytes(as_bytes(drawn(colour, seed=i)))
    rung.tune(
        "classifier", str(root), base=str(encoder_folder("dinov2")), method="linear_probe",
        replace=True, dtype="float32", device="cpu",
    )  # fmt: skip
    return ["seer", "second", "words", "classifier"]


@pytest.fixture(scope="module")
def server(names):
    from rung.models import load

    served = serve(load(names, memory=1 << 28).engine)
    yield served
    served.stop()


def shows(colour, seed=0):
    return part(url(as_bytes(drawn(COLOURS[colour], seed=seed))))


def ask(server, model, content, **more):
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **more}
    with httpx.Client(base_url=server.url, timeout=60) as http:
        return http.post("/v1/chat/completions", json=body)


def says(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_two_projectors_text_adapters_and_a_classifier_answer_together_as_alone(server):
    text = {"type": "text", "text": "Which is it?"}
    asked = [
        (model, [*(shows(c) for c in colours), text])
        for model, colours in [
            ("seer", ["red"]), ("second", ["red"]), ("seer", ["red", "blue"]),
            ("seer", ["blue", "red"]), ("second", ["green"]), ("seer", []), ("words", []),
            ("classifier", ["red"]),
            ("classifier", ["blue"]), ("second", ["blue", "green", "red"]), ("words", []),
        ]
    ]  # fmt: skip
    alone = [says(ask(server, *one)) for one in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: says(ask(server, *one)), asked))
    assert together == alone
    assert alone[7:9] == ["red", "blue"]
    assert alone[2] != alone[3], "the order of two pictures makes no difference"


def test_a_picture_asked_about_five_times_is_encoded_once(server):
    stages = []
    for i in range(5):
        content = [shows("red", seed=77), {"type": "text", "text": f"Question {i}?"}]
        stages.append(ask(server, "seer", content, trace=True).json()["trace"])
    found = [next(s for s in t["stages"] if s["stage"] == "pictures") for t in stages]
    assert [s["shown"] for s in found] == [1] * 5
    assert [s["encoded"] for s in found] == [1, 0, 0, 0, 0]
    assert stages[0]["cached_tokens"] < SIDE**2 <= stages[4]["cached_tokens"], (
        "its tokens are not shared"
    )


def test_the_answer_to_two_pictures_is_that_of_transformers(server, seer, shown):
    adapter = server.engine.bank.adapters[server.engine.model("seer").slot]
    model = tiny_llama()
    content = [shows("green"), shows("blue"), {"type": "text", "text": "Which?"}]
    answer = ask(server, "seer", content, max_tokens=3, logprobs=True, top_logprobs=5).json()
    told = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    prompt = seer.prepared.template.prompt([user("Which?", shown["green"], shown["blue"])])
    expected = reference(model, adapter.sight, prompt)[-1].log_softmax(-1).topk(5).values
    assert [t["logprob"] for t in told] == pytest.approx(expected.tolist(), abs=1e-4)
    assert answer["usage"]["prompt_tokens"] == len(prompt)


def test_pictures_between_texts_are_answered_where_they_stand(server, seer, shown):
    adapter = server.engine.bank.adapters[server.engine.model("seer").slot]
    parts = [said("Left "), shows("green"), said(" or right "), shows("blue"), said("?")]
    more = {"max_tokens": 3, "logprobs": True, "top_logprobs": 5}
    found = []
    for content in (
        parts,
        [*parts[1::2], *parts[::2]],
        [*parts[:1], parts[3], parts[2], parts[1], parts[4]],
    ):
        answer = ask(server, "seer", content, **more).json()
        (told, *_) = answer["choices"][0]["logprobs"]["content"]
        found.append([t["logprob"] for t in told["top_logprobs"]])
        asked = conversation([ChatMessage.model_validate({"role": "user", "content": content})], [])
        prompt = seer.prepared.template.prompt(asked)
        expected = reference(tiny_llama(), adapter.sight, prompt)[-1].log_softmax(-1).topk(5).values
        assert found[-1] == pytest.approx(expected.tolist(), abs=1e-4)
    assert found[0] != pytest.approx(found[1], abs=1e-3)
    assert found[0] != pytest.approx(found[2], abs=1e-3)


def test_ids_of_somebody_elses_picture_are_refused(server, shown):
    ids = list(tokens.ids_of(shown["red"], SIDE**2))
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for path, key in (("completions", "prompt"), ("embeddings", "input")):
            answer = http.post(f"/v1/{path}", json={"model": "seer", key: [5, *ids]})
            assert answer.status_code == 400 and "outside 0 to" in answer.json()["error"]["message"]


def test_what_a_model_cannot_see_is_refused_in_one_line(server):
    answer = ask(server, "words", [shows("red")])
    assert answer.status_code == 400 and "projector" in answer.json()["error"]["message"]
    answer = ask(server, "classifier", "no picture")
    assert answer.status_code == 400 and "there is none" in answer.json()["error"]["message"]
    answer = ask(server, "seer", [part("https://example.org/a.png")])
    assert answer.status_code == 400 and "nothing is fetched" in answer.json()["error"]["message"]
    answer = ask(server, "seer", [shows("red")] * 16 + [{"type": "text", "text": "x" * 600}])
    assert answer.status_code == 400 and "context" in answer.json()["error"]["message"]


def test_penalties_and_seeds_take_prompts_with_pictures(server):
    content = [shows("red"), {"type": "text", "text": "Go"}]
    more = {"temperature": 1.0, "seed": 4, "repetition_penalty": 1.2, "presence_penalty": 0.5}
    assert says(ask(server, "seer", content, **more)) == says(ask(server, "seer", content, **more))


def test_rung_chat_shows_a_picture(seer, captions, capsys):
    from rung.cli import run

    shown, asked = str(captions.parent / "red0.png"), ["chat", "seer", "-p", "Which?", "--picture"]
    assert run([*asked, shown]) == 0
    capsys.readouterr()
    assert run([*asked, str(captions)]) == 2
    assert "no picture that can be read" in capsys.readouterr().err


def test_a_conversation_with_a_picture_is_saved_as_a_row_that_is_read_again(seer, shown, tmp_path):
    from rung.cli.conversation import as_parts
    from rung.data.turns import turns

    told = [user("Which?", shown["red"], shown["blue"]), {"role": "assistant", "content": "Red."}]
    assert turns([as_parts(turn) for turn in told]) == told
    between = [{**told[0], "picture_offsets": (2, 6)}, told[1]]
    assert turns([as_parts(turn) for turn in between]) == between


def test_the_second_stage_trains_lora_too(seer, captions, language_model, encoder_folder):
    settings = {"parent": "seer", "sight_rank": 2, "epochs": 1.0}
    made = tuned("stage-two", captions, language_model, encoder_folder("dinov2"), **settings)
    assert made.adapter.linear and made.adapter.sight is not None
    assert made.metrics["validation_loss"] <= seer.metrics["validation_loss"] + 0.05
    for wrong, told in (
        ({"picture_side": 3}, "use --picture-side 2"),
        ({"vision": str(encoder_folder("clip"))}, "another encoder"),
    ):
        wrong = {"vision": str(encoder_folder("dinov2")), **settings, **wrong}
        with pytest.raises(MethodMisfit, match=told):
            tuned("no", captions, language_model, **wrong)


def test_a_changed_encoder_or_a_damaged_folder_is_refused(seer, encoder_folder, tmp_path):
    import shutil

    from rung.artefacts import folders

    folder = tmp_path / "seer"
    shutil.copytree(seer.model.folder, folder)
    settings = json.loads((folder / "settings.json").read_text())
    settings["vision"]["digest"] = "0" * 64
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / folders.MANIFEST).unlink()
    with pytest.raises(ArtefactError, match="other weights"):
        artefact.load(folder, seer.prepared.bank)
