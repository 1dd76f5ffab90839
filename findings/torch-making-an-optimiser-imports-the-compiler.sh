#!/usr/bin/env bash
# Making an AdamW imports torch's compiler, hundreds of modules, though nothing is compiled.
#
# Version: torch 2.13.0.
# Behaviour: the first optimiser of a process imports torch._dynamo and torch._inductor, which `import torch`
#   leaves out: its constructor passes through a decorator that disables compilation, and disabling it
#   needs the compiler. No step is taken and torch.compile is never called.
# A good guess: an optimiser is arithmetic on tensors, so making one of a single parameter costs microseconds.
# Why it matters: it took about a second, as much as `import torch` itself. A short training pays it within
#   what is timed, and a benchmark of two trainers charges it to the one whose imports did not bring it.
# Seen:
#   before AdamW: torch._dynamo False, torch._inductor False
#   after AdamW: torch._dynamo True, torch._inductor True, more than 500 modules
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import sys

import torch

NAMES = ("torch._dynamo", "torch._inductor")
weight = torch.zeros(1, requires_grad=True)
before, had = len(sys.modules), [name in sys.modules for name in NAMES]
torch.optim.AdamW([weight])
more, has = len(sys.modules) - before, [name in sys.modules for name in NAMES]
print("before AdamW:", ", ".join(f"{n} {h}" for n, h in zip(NAMES, had)))
print("after AdamW:", ", ".join(f"{n} {h}" for n, h in zip(NAMES, has)) + ",",
      "more than 500 modules" if more > 500 else f"{more} modules")
if any(had) or not all(has) or more <= 500:
    sys.exit("no longer as stated: the constructor imported the compiler")
PY
