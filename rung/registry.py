"""The registry: things of one kind, one file each, found by the file's name.

A file `NAME.py` of the kind's package that defines the kind's class, or assigns the kind's object, is
an entry, and so is an entry point NAME of the kind's group in an installed package. Nothing is listed
by hand. Which files are entries is read from their syntax, so that listing names imports none of them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Generic, TypeVar

from rung.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind by name; a class is made once, as `Class(name)`, an object taken as it is.

    Args:
        package: where the built-in entries are, such as `rung.methods`.
        attribute: what an entry's module defines: a class such as `Method`, or an object such as
            `routes`.
        noun: what an entry is called in messages, such as `method`.
        group: the entry point group; by default the package's name.
        foreign: what else the field calls an entry, and what to say here instead.
    """

    def __init__(
        self, package: str, attribute: str, noun: str, group: str | None = None,
        foreign: Mapping[str, str] = MappingProxyType({}),
    ):  # fmt: skip
        self.package, self.attribute, self.noun = package, attribute, noun
        self.group, self.foreign = group or package, foreign
        self._made: dict[str, T] = {}

    def names(self) -> list[str]:
        """All names in alphabetical order, those of installed packages among them."""
        return sorted({*self._files, *self._entry_points})

    def get(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ConfigError: for an unknown name, with the nearest known one, for an entry point whose
                module cannot be imported or lacks the class, and for a name that is defined twice.
        """
        if name not in self._made:
            if name not in self._files and name not in self._entry_points:
                ours = self.foreign.get(name.replace("-", "_").lower())
                hint = f", here {ours}" if ours else nearest(name, self.names())
                raise ConfigError(f"unknown {self.noun} '{name}'{hint}")
            found = self._defined(name)
            self._made[name] = found(name) if isinstance(found, type) else found
        return self._made[name]

    def all(self) -> list[T]:
        """Every entry, in the order of `names`."""
        return [self.get(name) for name in self.names()]

    def module(self, name: str) -> ModuleType:
        """The module of an entry. Raises ConfigError as `get` does."""
        found = self._entry_points.get(name, [])
        if not found:
            return importlib.import_module(f"{self.package}.{name}")
        places = [e.value for e in found] + [f"{self.package}.{name}"] * (name in self._files)
        if len(places) > 1:
            raise ConfigError(
                f"{self.noun} '{name}' is defined by {' and by '.join(places)}: uninstall all but one"
            )
        try:
            return found[0].load()
        except Exception as fault:
            raise ConfigError(
                f"{self.noun} '{name}' of '{places[0]}' cannot be imported: {fault}"
            ) from None

    def _defined(self, name: str) -> Any:
        module = self.module(name)
        if not hasattr(module, self.attribute):
            raise ConfigError(
                f"'{name}' is no {self.noun}: {module.__name__} does not define {self.attribute}"
            )
        return getattr(module, self.attribute)

    @cached_property
    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name; packages may claim the same one, which `module` refuses."""
        found: dict[str, list[EntryPoint]] = {}
        for one in entry_points(group=self.group):
            if one.value not in [e.value for e in found.get(one.name, [])]:
                found.setdefault(one.name, []).append(one)
        return found

    @cached_property
    def _files(self) -> frozenset[str]:
        spec = importlib.util.find_spec(self.package)
        places = spec.submodule_search_locations if spec else None
        found = [p for place in places or () for p in Path(place).glob("*.py")]
        found += [p for place in places or () for p in Path(place).glob("*/__init__.py")]
        return frozenset(
            p.stem if p.stem != "__init__" else p.parent.name
            for p in found
            if p.parent.name + "/" + p.name != self.package.rpartition(".")[2] + "/__init__.py"
            and self._defines(p)
        )

    def _defines(self, path: Path) -> bool:
        """Whether a file defines what an entry must, or imports it under that name (a package)."""
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and self.attribute in map(ast.unparse, node.targets):
                return True
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == self.attribute:
                return True
            if isinstance(node, ast.ClassDef) and node.name == self.attribute:
                return _concrete(node)
            if isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
                names = {alias.asname or alias.name for alias in node.names}
                if self.attribute in names:
                    return True
        return False


def _concrete(node: ast.ClassDef) -> bool:
    """Whether a class has a base other than ABC or Protocol: the contract itself is no entry."""
    bases = {ast.unparse(base) for base in node.bases}
    return bool(bases - {"ABC", "Protocol", "abc.ABC"})
