"""One registry for everything that is a file found by its name."""

from __future__ import annotations

import sys

import pytest

from rung.errors import ConfigError
from rung.registry import Registry


@pytest.fixture
def kinds(tmp_path, monkeypatch):
    """A package `kinds` with a contract, two entries, a helper and an entry that is a folder."""
    files = {
        "__init__.py": "",
        "base.py": (
            "from abc import ABC\nclass Kind(ABC):\n"
            "    def __init__(self, name):\n        self.name = name\n"
        ),
        "one.py": "from kinds.base import Kind as Base\nclass Kind(Base):\n    pass\n",
        "two.py": "raise RuntimeError('imported too early')\nclass Kind(Base):\n    pass\n",
        "helper.py": "def help(): ...\n",
        "three/__init__.py": "from kinds.three.inner import Kind as Kind\n",
        "three/inner.py": "from kinds import base\nclass Kind(base.Kind):\n    pass\n",
    }
    for name, text in files.items():
        path = tmp_path / "kinds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield Registry("kinds", "Kind", "kind")
    for name in [m for m in sys.modules if m.split(".")[0] == "kinds"]:
        del sys.modules[name]


def test_files_that_define_the_class_are_entries_and_are_not_imported_for_their_names(kinds):
    assert kinds.names() == ["one", "three", "two"]


def test_an_entry_is_made_once_with_its_name(kinds):
    assert kinds.get("one").name == "one" and kinds.get("one") is kinds.get("one")
    assert kinds.get("three").name == "three"


def test_an_unknown_name_gets_the_nearest(kinds):
    with pytest.raises(ConfigError, match="unknown kind 'thre'.*did you mean 'three'"):
        kinds.get("thre")


def test_an_entry_point_that_cannot_be_imported_is_named_in_one_line(kinds, monkeypatch):
    class Broken:
        name, value = "theirs", "their_package.theirs"

        def load(self):
            raise ImportError("no module named 'their_package'")

    monkeypatch.setattr("rung.registry.entry_points", lambda group: [Broken()])
    assert "theirs" in kinds.names()
    with pytest.raises(ConfigError, match="kind 'theirs' of 'their_package.theirs' cannot be imported"):
        kinds.get("theirs")


def test_a_name_that_is_defined_twice_is_refused(kinds, monkeypatch):
    class Theirs:
        name, value = "one", "their_package.one"

    monkeypatch.setattr("rung.registry.entry_points", lambda group: [Theirs()])
    with pytest.raises(ConfigError, match="kind 'one' is defined by .* and by kinds.one"):
        kinds.get("one")
