#!/usr/bin/env bash
# Adding a BOFT adapter on a machine without CUDA leaves CC=gcc and CXX=gcc in the environment of the process.
#
# Version: peft 0.21.2, torch 2.13.0 (its CPU build is enough), transformers 5.23.0.
# Behaviour: PEFT tries to build a CUDA extension with both variables set. Where that fails, it warns and goes on,
#   and never sets them back: they stay for the rest of the process and for all that it starts.
# A good guess: a warning that an extension cannot be loaded is all that is left of it; the variables are set in a
#   `with` block, which sets them back.
# Why it matters: CXX=gcc is a driver of C. What is compiled as C++ afterwards, by this process or by one that it
#   starts, is linked without C++'s library and cannot be loaded, and what the user had in CXX is gone.
# Seen:
#   before CC=None CXX=/usr/bin/c++, after CC=gcc CXX=gcc
# Installs torch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2
env -u CC CXX=/usr/bin/c++ CUDA_VISIBLE_DEVICES= "$folder/env/bin/python" -W ignore - <<'PY'
import os

from peft import BOFTConfig, get_peft_model
from torch import nn

seen = ["CC={} CXX={}".format(*map(os.environ.get, ("CC", "CXX")))]
get_peft_model(nn.Sequential(nn.Linear(8, 8)), BOFTConfig(boft_block_size=4, target_modules=["0"]))
seen.append("CC={} CXX={}".format(*map(os.environ.get, ("CC", "CXX"))))
print("before {}, after {}".format(*seen))
assert seen == ["CC=None CXX=/usr/bin/c++", "CC=gcc CXX=gcc"], "the behaviour has changed"
PY
