"""Folders: written whole or not at all, and told apart from damaged and hostile ones."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rung.artefacts import folders
from rung.errors import ArtefactError, ConfigError, StoreError


def fill(folder: Path) -> None:
    """What a small adapter looks like."""
    save_file({"a": np.ones((2, 3), "float32"), "b": np.zeros(4, "int8")}, folder / "w.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "sub").mkdir()
    (folder / "sub" / "note.txt").write_text("note")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "coach"
    folders.write(path, fill)
    return path


def test_what_was_written_verifies(folder: Path) -> None:
    folders.verify(folder)
    folders.verify(folder, full=False)
    listed = folders.read_json(folder / "manifest.json")["files"]
    assert set(listed) == {"config.json", "w.safetensors", "sub/note.txt"}
    assert listed["sub/note.txt"]["bytes"] == 4
    assert folders.read_header(folder / "w.safetensors")["a"].shape == (2, 3)
    assert os.listdir(folder.parent) == ["coach"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_who_may_read_it_follows_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        folders.write(tmp_path / "coach", fill)
    finally:
        os.umask(before)
    found = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "coach").rglob("*") if p.is_file()}
    assert found["w.safetensors"] == found["manifest.json"] == mode
    assert set(found.values()) == {mode}


def test_writing_again_replaces_all_of_it(folder: Path) -> None:
    folders.write(folder, lambda new: (new / "only.txt").write_text("x"))
    folders.verify(folder)
    assert sorted(os.listdir(folder)) == ["manifest.json", "only.txt"]
    assert os.listdir(folder.parent) == ["coach"]


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: change(f / "w.safetensors"), r"w.safetensors is damaged \(its SHA-256"),
    (lambda f: os.truncate(f / "w.safetensors", 90), "w.safetensors"),
    (lambda f: os.truncate(f / "sub/note.txt", 2), r"sub/note.txt is damaged \(its size"),
    (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    (lambda f: (f / "more.txt").write_text("x"), "more.txt .* is not in its manifest"),
    (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
    (lambda f: (f / "manifest.json").write_text("{"), "not valid JSON"),
    (lambda f: (f / "manifest.json").write_text("{}"), "lists no files"),
    (lambda f: (f / "manifest.json").write_text('{"files": {"config.json": 1}}'), "manifest"),
    (shutil.rmtree, "is not a folder"),
    (lambda f: os.symlink("/etc/hostname", f / "link.txt"), "link.txt .* links out"),
    (lambda f: os.symlink("../../..", f / "up"), "up .* links out"),
    (lambda f: os.symlink("sub", f / "inside"), "leads to no file"),
    (lambda f: os.mkfifo(f / "pipe"), "neither a file nor a folder"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(folder)
    with pytest.raises(ArtefactError, match=words) as fault:
        folders.verify(folder)
    assert fault.value.http_status == 400


class Bomb:
    """Unpickling it would leave a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("name", ["w.bin", "w.PT", "a/b.pkl", "x.ckpt", "w.safetensors", "w.json"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_is_refused_under_any_name(tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(Bomb(mark), protocol))
    with pytest.raises(ArtefactError, match="is a pickle"):
        folders.inspect(tmp_path / "folder")
    with pytest.raises(ArtefactError, match="is a pickle"):
        folders.write(tmp_path / "out", lambda new: shutil.copy(path, new / path.name))
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_an_archive_of_pickles_is_refused(tmp_path: Path) -> None:
    """As torch.save writes it, named as something else."""
    with zipfile.ZipFile(tmp_path / "w.dat", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(ArtefactError, match="holds a pickle"):
        folders.inspect(tmp_path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "run code through 'auto_map'"),
        ({"text_config": {"auto_map": {"AutoModel": "x.Y"}}}, "run code through 'auto_map'"),
        ({"_attn_implementation": "org/kernel"}, "overrides the attention implementation"),
        ({"attn_implementation": {"": "org/kernel"}}, "overrides the attention implementation"),
    ],
)
def test_a_config_that_brings_code_is_refused(tmp_path: Path, config: dict, words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtefactError, match=words):
        folders.inspect(tmp_path)


def test_a_config_without_code_and_a_word_of_a_vocabulary_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": null, "_attn_implementation": null}')
    (tmp_path / "vocab.json").write_text('{"auto_map": 1}')
    folders.inspect(tmp_path)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"abc", "cut off"),
        (safetensors({}, length=2**63), "header of 9223372036854775808 bytes"),
        (safetensors({}, length=3), "header of 3 bytes"),
        (safetensors(b"{nope}"), "not JSON"),
        (safetensors(b"[" * 9999), "not JSON"),
        (safetensors([]), "not an object"),
        (safetensors(b'{"a": {}, "a": {}}'), "stands twice"),
        (safetensors({"a": {"dtype": "F32"}}), "incompletely"),
        (safetensors({"a": tensor(0, 4, [1], "F31")}, b"1234"), "unknown dtype"),
        (safetensors({"a": tensor(0, 4, [2])}, b"1234"), "says 4 bytes"),
        (safetensors({"a": tensor(-4, 0, [1])}), "no whole number"),
        (safetensors({"a": tensor(0, 4, [1])}, b"12"), "holds 2 bytes"),
        (safetensors({"a": tensor(0, 4, [1])}, b"12345"), "holds 5 bytes"),
        (safetensors({"a": tensor(4, 8, [1])}, b"12345678"), "a gap or an overlap"),
        (
            safetensors({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, b"1234"),
            "a gap or an overlap",
        ),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=words):
        folders.read_header(path)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4),
    dtype=st.sampled_from(["float16", "float32", "int64", "uint8", "bool"]),
    cut=st.integers(0, 400),
    flip=st.integers(0, 8 * 400),
)
def test_headers_agree_with_the_library(
    tmp_path_factory: pytest.TempPathFactory, shapes: list, dtype: str, cut: int, flip: int
) -> None:
    """What the library writes passes; a file changed at random only where the library takes it."""
    from safetensors import SafetensorError, safe_open

    path = tmp_path_factory.mktemp("h") / "w.safetensors"
    save_file({str(i): np.zeros(shape, dtype) for i, shape in enumerate(shapes)}, path)
    found = folders.read_header(path)
    assert {n: list(t.shape) for n, t in found.items()} == {
        str(i): shape for i, shape in enumerate(shapes)
    }
    content = bytearray(path.read_bytes())
    content[flip // 8 % len(content)] ^= 1 << flip % 8
    path.write_bytes(content[: len(content) - cut if cut < 40 else len(content)])
    try:
        folders.read_header(path)
    except ArtefactError:
        return
    try:
        with safe_open(path, "numpy") as file:
            file.keys()
    except SafetensorError as fault:
        pytest.fail(f"passed what the library refuses: {fault}")


def test_a_full_disk_leaves_the_earlier_folder(folder: Path) -> None:
    def write_into_full(new: Path) -> None:
        (new / "w.safetensors").write_bytes(safetensors({"a": tensor(0, 4000, [1000])}, b"12"))
        with open("/dev/full", "wb") as device:
            device.write(b"x" * 100_000)

    with pytest.raises(StoreError, match=r"needs at least 40\d\d bytes.*earlier version is unch"):
        folders.write(folder, write_into_full)
    with pytest.raises(StoreError, match=f"needs at least {10**18} bytes"):
        folders.write(folder, fill, needs=10**18)

    def as_rust_says_it(new: Path) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(StoreError, match="no space left"):
        folders.write(folder, as_rust_says_it)
    folders.verify(folder)
    assert os.listdir(folder.parent) == ["coach"]


def test_a_fault_of_the_caller_passes_through(folder: Path) -> None:
    def fault(new: Path) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        folders.write(folder, fault)
    folders.verify(folder)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        folders.write(tmp_path / "file" / "coach", fill)
    with pytest.raises(ArtefactError, match="is a link or a file"):
        folders.write(tmp_path / "file", fill)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("stop", range(1, 24))
def test_a_crash_at_any_step_leaves_the_old_or_the_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool, stop: int
) -> None:
    """A child process dies at its n-th system call that changes the disk."""
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    before = folder.joinpath("config.json").read_text()

    def dying(real: Callable) -> Callable:
        def call(*arguments: object, **more: object) -> object:
            nonlocal stop
            stop -= 1
            if stop == 0:
                os._exit(9)
            return real(*arguments, **more)

        return call

    def new(path: Path) -> None:
        fill(path)
        (path / "config.json").write_text('{"model_type": "new"}')

    child = os.fork()
    if child == 0:
        for module, name in ((os, "fsync"), (os, "rename"), (os, "mkdir"), (shutil, "rmtree")):
            setattr(module, name, dying(getattr(module, name)))
        folders.write(folder, new)
        os._exit(0)
    os.waitpid(child, 0)
    folders.verify(folder)
    assert folder.joinpath("config.json").read_text() in (before, '{"model_type": "new"}')
    folders.write(folder, fill)
    folders.verify(folder)
    assert os.listdir(folder.parent) == ["coach"]


def _write_often(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    while True:
        mark = str(rng.random())

        def new(path: Path, mark: str = mark) -> None:
            for name in ("one", "two"):
                (path / name).write_text(mark)

        folders.write(folder, new)


def test_readers_never_see_a_mixture_while_writers_race(tmp_path: Path) -> None:
    folder = tmp_path / "coach"
    context = multiprocessing.get_context("forkserver")  # threads of other tests may hold locks here
    writers = [context.Process(target=_write_often, args=(folder, i)) for i in range(2)]
    for writer in writers:
        writer.start()
    try:
        end = time.monotonic() + 30
        while not folder.exists():  # processes of their own import first
            assert time.monotonic() < end
            time.sleep(0.01)
        end = time.monotonic() + 1.0
        seen = 0
        while time.monotonic() < end:
            try:
                held = os.open(folder, os.O_RDONLY)
            except FileNotFoundError:
                assert not seen  # once there, always there
                continue
            try:
                texts = []
                for name in ("one", "two"):
                    handle = os.open(name, os.O_RDONLY, dir_fd=held)
                    texts.append(os.read(handle, 100))
                    os.close(handle)
                assert texts[0] == texts[1]
                seen += 1
            except FileNotFoundError:
                pass  # replaced and deleted while we read it
            finally:
                os.close(held)
        assert seen > 10
        assert all(writer.is_alive() for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    folders.write(folder, fill)
    folders.verify(folder)
    assert os.listdir(tmp_path) == ["coach"]


def test_removing(folder: Path) -> None:
    folders.remove(folder)
    folders.remove(folder)
    assert os.listdir(folder.parent) == []


@pytest.mark.parametrize("name", ["coach", "a", "A-b_c.1", "x" * 64, "Qwen2.5-0.5B"])
def test_names_that_do(name: str, rung_home: Path) -> None:
    assert folders.model_folder(name) == rung_home / "models" / name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", "/etc", "a/b", "a\\b", "-a", ".a", "a ", "a\n", "ä", "x" * 65, "base"]
    + ["NUL", "a.", "a\0b"],
)
def test_names_that_do_not(name: str) -> None:
    with pytest.raises(ConfigError) as fault:
        folders.model_name(name)
    assert fault.value.http_status == 400


@given(st.text(max_size=70))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    try:
        folders.model_name(name)
    except ConfigError as fault:
        assert "\n" not in str(fault)
    else:
        assert (Path("/models") / name).resolve().parent == Path("/models")


def test_a_folder_linked_from_elsewhere_is_refused(rung_home: Path, tmp_path: Path) -> None:
    folders.model_folder("coach").parent.mkdir(parents=True, exist_ok=True)
    folders.model_folder("coach").symlink_to(tmp_path)
    with pytest.raises(ArtefactError, match="links out"):
        folders.model_folder("coach")


def test_errors_of_the_disk_are_told_apart() -> None:
    assert folders._is_full(OSError(errno.EDQUOT, "quota"))
    assert not folders._is_full(OSError(errno.EACCES, "no"))
