#!/usr/bin/env bash
# Of a short program with a transformers model, a quarter or more goes into walking objects that are no garbage.
#
# Version: transformers 5.23.0, torch 2.13.0 (CPU), CPython 3.11.
# Behaviour: importing transformers' Llama and leaving again takes a quarter to a third less once the collector is off while
#   modules are imported and gc.freeze() is called after. Half of that is at the exit, where the interpreter
#   walks and takes apart what the imports made, after the last line of the program.
# A good guess: the collector costs a few hundredths of a second, since modules are not garbage; the time goes
#   into reading files and building classes, so that lazier imports are all that helps.
# Why it matters: a command line tool is started for each question; these seconds are no part of what
#   an import profile shows (-X importtime ends before the exit, and counts the walks to whoever is imported).
# Seen (seconds, medians of five):
#   as it is 5.16
#   collector off while importing, then frozen 3.80
#   share 0.26
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$work"
cat >plain.py <<'PY'
import torch
from transformers.models.llama import modeling_llama
PY
cat >frozen.py <<'PY'
import gc

gc.disable()
import torch
from transformers.models.llama import modeling_llama

gc.enable()
gc.freeze()
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import statistics
import subprocess
import sys
import time


def seconds(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, program], check=True)
    return time.perf_counter() - began


seconds("plain.py")  # compiles what is imported
turns = [(seconds("plain.py"), seconds("frozen.py")) for _ in range(5)]
plain, frozen = (statistics.median(column) for column in zip(*turns, strict=True))
print(f"as it is {plain:.2f}")
print(f"collector off while importing, then frozen {frozen:.2f}")
print(f"share {1 - frozen / plain:.2f}")
if 1 - frozen / plain < 0.15:
    sys.exit("no longer as stated: the collector takes little of such a program")
PY
