"""FAULTS 37-40: adapters that are damaged, hostile or foreign, and changes under load."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import openai
import pytest

from rung import home
from rung.artefacts import folders
from rung.errors import ArtefactError, RungError
from tests.engine.world import engine_of, tiny_llama
from tests.models import tiny_adapter
from tests.server.conftest import serve
from tests.server.shop import base_folder, client_of
from tests.test_models import keep

HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
def base(rung_home, tmp_path):
    folder = base_folder(tmp_path / "tiny")
    keep("good", "lora", folder)
    keep("bad", "lora", folder)
    return folder


def load(*names):
    from rung.models import load_engine

    return load_engine(list(names), memory=1 << 26)


@pytest.mark.parametrize(
    "name", ["/etc", "..", "../models/good", "a/../b", "models\\good", "x" * 300, "a\0b"]
)
def test_a_name_leads_nowhere(base, name):
    with pytest.raises(RungError) as fault:
        load(name)
    assert fault.value.http_status in (400, 404) and "\n" not in str(fault.value)


def test_a_folder_that_links_out_is_refused(base, tmp_path):
    folder = home.folder("models") / "bad"
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match="links out"):
        folders.model_folder("bad")


class _Boom:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["RUNG_HOME"]) / "executed"),)


def _pickle(folder):
    import pickle

    (folder / "adapter_model.bin").write_bytes(pickle.dumps(_Boom()))
    (folder / "adapter_model.safetensors").unlink()


def _auto_map(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "x.Y"}}))


def _attention(folder):
    (folder / "config.json").write_text(json.dumps({"_attn_implementation": "kernels/evil"}))


def _truncated(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lying(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


@pytest.mark.parametrize("damage", [_pickle, _auto_map, _attention, _truncated, _lying])
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_damaged_or_hostile_is_refused_unexecuted(base, damage, sealed):
    """Also where the manifest was left out, as in a folder that another tool wrote."""
    folder = home.folder("models") / "bad"
    damage(folder)
    if not sealed:
        (folder / "manifest.json").unlink()
    with pytest.raises(ArtefactError) as fault:
        load("good", "bad")
    assert fault.value.http_status == 400
    assert not (home.home() / "executed").exists()
    assert "good" in load("good").models


def _rewrite(folder, change):
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    (folder / "manifest.json").unlink()


def _nan(tensors):
    next(iter(tensors.values())).fill_(float("nan"))


def _missing(tensors):
    del tensors[next(iter(tensors))]


def _wide(tensors):
    name = next(n for n in tensors if "lora_A" in n)
    tensors[name] = tensors[name].repeat(2000, 1)


def _many(tensors):
    """Rank 1032 throughout: each matrix fits the next."""
    for name, tensor in tensors.items():
        across = int("lora_B" in name)
        copies = -(-1032 // tensor.shape[across])
        tensors[name] = tensor.repeat(1, copies) if across else tensor.repeat(copies, 1)


def test_a_rank_above_the_limit_is_refused(base):
    folder = home.folder("models") / "bad"
    _rewrite(folder, _many)
    path = folder / "adapter_config.json"
    rank = 1032
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": rank}))
    with pytest.raises(ArtefactError, match="rank.*1024") as fault:
        load("bad")
    assert fault.value.http_status == 400


@pytest.mark.parametrize(
    ("change", "words"), [(_nan, "finite"), (_missing, "lora"), (_wide, "shape|rank")]
)
def test_weights_that_do_not_fit_are_refused(base, change, words):
    _rewrite(home.folder("models") / "bad", change)
    with pytest.raises(ArtefactError, match=words) as fault:
        load("bad")
    assert fault.value.http_status == 400


def test_another_base_is_refused(base):
    for file in base.glob("*"):
        file.unlink()
    base_folder(base, seed=9)
    with pytest.raises(RungError, match="other weights"):
        load("good")


def test_models_change_under_load_without_mixing():
    """Reloaded between two sets of weights while clients ask: each answer is one model's own."""
    import dataclasses

    engine = engine_of(tiny_llama())
    served = serve(engine)
    asked = {"messages": HELLO, "max_tokens": 12, "temperature": 1.0, "seed": 5, "n": 16}
    variants = [tiny_adapter(engine.bank, "lora", seed=s) for s in (21, 22)]
    model = dataclasses.replace(engine.model("lora"), name="swap")

    def texts(client, name):
        answer = client.chat.completions.create(model=name, **asked)
        return tuple(c.message.content for c in answer.choices)

    try:
        with client_of(served) as client:
            expected = {}
            for adapter in variants:
                engine.load(model, adapter)
                expected.setdefault("swap", set()).add(texts(client, "swap"))
            for name in ("base", "lora", "prompt_tuning", "prefix_tuning", "last_layers", "full"):
                expected[name] = {texts(client, name)}
            assert len(expected["swap"]) == 2
            wrong, missed, over = [], [], threading.Event()

            def ask(name):
                with client_of(served) as own:
                    for _ in range(3):
                        try:
                            found = texts(own, name)
                        except openai.NotFoundError:
                            missed.append(name)
                            continue
                        if found not in expected[name]:
                            wrong.append((name, found))

            def change():
                while not over.is_set():
                    for adapter in variants:
                        engine.load(model, adapter)
                    engine.unload("swap")

            names = [*expected, "swap", "swap"]
            threads = [threading.Thread(target=ask, args=(n,)) for n in names]
            changer = threading.Thread(target=change)
            changer.start()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            over.set()
            changer.join()
            assert wrong == [] and set(missed) <= {"swap"}
    finally:
        served.stop()
