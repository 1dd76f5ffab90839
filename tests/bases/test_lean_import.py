"""Loading a base imports neither SciPy nor torch's compiler, hides neither, then collects garbage."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from rung import bases, process

SPEC = "scratch:layers=1,width=16,heads=2,vocab=300,context=64"
HANDED_DOWN = ("PATH", "HOME", "RUNG_HOME", "PYTHONPATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH")
PROBE = """
import gc, json, sys, weakref
from rung import bases, process
usual = gc.get_threshold()
if sys.argv[1] == "command":
    process.start_command()
importing = gc.get_threshold() != usual
loaded = bases.load(bases.resolve(sys.argv[2]))
collecting = [importing, gc.get_threshold() == usual, gc.get_freeze_count() > 0]
again = bases.load(bases.resolve(sys.argv[2])).model
again.itself, gone = again, weakref.ref(again)
del again
gc.collect()
freed = gone() is None
here = [name for name in ("scipy", "torch._dynamo", "torch.distributed.tensor") if name in sys.modules]
import torch, torch._dynamo
ids = torch.tensor([[5, 6, 7]])
logits = loaded.model(input_ids=ids).logits
compiled = torch.compile(lambda x: x + 1, backend="eager")(ids)
masked = loaded.model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1]])).logits
print(json.dumps([collecting, freed]))
print(json.dumps([here, list(logits.shape), compiled.tolist(), bool(masked.isfinite().all())]))
"""


@pytest.mark.parametrize(
    ("whose", "processes"), [("command", None), ("command", "1"), ("program", None)]
)
def test_what_is_not_needed_is_not_imported(whose, processes):
    bases.resolve(SPEC)  # making a base, which is done once, needs all of transformers' models
    # Libraries that other tests call say in the environment how many processes there are, and more.
    environment = {k: v for k, v in os.environ.items() if k in HANDED_DOWN}
    if processes is not None:
        environment["WORLD_SIZE"] = processes
    done = subprocess.run(
        [sys.executable, "-c", PROBE, whose, SPEC],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()
    assert json.loads(said[-2]) == [[whose == "command", True, whose == "command"], True]
    here, shape, compiled, finite = json.loads(said[-1])
    assert (
        ("torch.distributed.tensor" in here)
        == bool(here)
        == (whose == "program" or processes is not None)
    )
    assert shape[:2] == [1, 3]
    assert compiled == [[6, 7, 8]] and finite


def test_a_release_that_needs_more_is_imported_whole(monkeypatch):
    from rung.bases import lean_import

    monkeypatch.setattr(process, "runs_command", True)
    calls: list[int] = []
    for name in [n for n in sys.modules if n.partition("torch._dynamo")[1]]:
        monkeypatch.delitem(sys.modules, name)

    def build():
        calls.append(1)
        if len(calls) == 1:
            raise ImportError("'torch._dynamo' is not a package")
        return 7

    assert lean_import.call(build) == 7 and len(calls) == 2
    assert "torch._dynamo" not in sys.modules
