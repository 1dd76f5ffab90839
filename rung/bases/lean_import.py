"""Importing transformers' models without the packages that only other uses of them need.

transformers imports SciPy for the matching in a loss of object detectors, torch's DTensor for models
that are divided among processes, and torch's compiler to keep it away from some functions. Together
they take a command much of the time before its first token. One of several processes imports them
all, and so does a program that imports Rung: it may want transformers' models for itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

from rung import process

T = TypeVar("T")
PROCESSES = "WORLD_SIZE"  # says that this process is one of several, as torchrun does
ABSENT = ("is_scipy_available", "is_torch_distributed_available")  # what transformers asks for them by
DECORATORS = ("disable", "allow_in_graph", "assume_constant_result")  # of torch.compiler
COMPILER, HELD = "torch._dynamo", "_trace_wrapped_higher_order_op"
MODULES = ("transformers.modeling_utils", "transformers.generation.utils")


def import_models() -> None:
    """Import what all of transformers' models stand on; does nothing where that is imported already."""
    if all(name in sys.modules for name in MODULES):
        return
    # A release that needs more of them than this one knows is imported whole below.
    if process.runs_command and PROCESSES not in os.environ:
        with contextlib.suppress(ImportError, AttributeError, NameError), _without_rare_uses():
            _import_all()
    _import_all()
    process.collect_as_usual()


def call(function: Callable[[], T]) -> T:
    """Call what builds a model, without torch's compiler, which it asks for where tensors have no
    storage yet; with it where that fails."""
    if process.runs_command:
        with contextlib.suppress(ImportError), _no_compiler():
            return function()
    return function()


def _import_all() -> None:
    for name in MODULES:
        importlib.import_module(name)


@contextlib.contextmanager
def _without_rare_uses() -> Iterator[None]:
    """Have transformers find no SciPy, no DTensor and no compiler while this lasts."""
    import torch
    from transformers import utils
    from transformers.utils import import_utils

    with contextlib.ExitStack() as stack:
        for owner in (utils, import_utils):
            for name in ABSENT:
                if hasattr(owner, name):
                    stack.enter_context(mock.patch.object(owner, name, lambda: False))
        for name in DECORATORS:
            stack.enter_context(mock.patch.object(torch.compiler, name, _as_it_is))
        stack.enter_context(_no_compiler())
        yield


@contextlib.contextmanager
def _no_compiler() -> Iterator[None]:
    """Stand in for torch's compiler, of which transformers' models need nothing while they are imported
    but decorators, and a class that is imported when it is first called. Whoever needs more fails."""
    if COMPILER in sys.modules:
        yield
        return
    package, part = ModuleType(COMPILER), ModuleType(f"{COMPILER}.{HELD}")
    package.__getattr__ = lambda name: _as_it_is  # type: ignore[method-assign]
    part.TransformGetItemToIndex = _get_item_to_index  # type: ignore[attr-defined]
    stand_ins = {module.__name__: module for module in (package, part)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _get_item_to_index() -> Any:
    return importlib.import_module(f"{COMPILER}.{HELD}").TransformGetItemToIndex()


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator that changes nothing."""
    return function if function is not None else _as_it_is
