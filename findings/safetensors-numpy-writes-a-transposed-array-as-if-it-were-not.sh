#!/usr/bin/env bash
# safetensors writes a transposed NumPy array in the order it has in memory, under the transposed shape.
#
# Version: safetensors 0.8.0, numpy 2.4.6.
# Behaviour: `x.T` is a view with swapped strides. safetensors.numpy.save stores the shape of the view and the
#   bytes of `x`, so the file reads back with the right shape, the right dtype, the right set of values, and
#   nearly every value in the wrong place. Nothing warns. A contiguous copy is stored rightly.
# A good guess: the view is stored as it reads (numpy.save does), or refused, as safetensors.torch refuses it.
# Why it matters: converters transpose all the time (Conv1D to Linear, a LoRA's A for an embedding). A square
#   matrix gives no hint at all: the converted model loads and answers badly. Call np.ascontiguousarray first.
# Seen:
#   view as it reads   [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#   view, read back    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   copy, read back    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#   numpy.save, back   [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
from safetensors.numpy import load, save

x = np.arange(6, dtype=np.float32).reshape(2, 3)
buffer = io.BytesIO()
np.save(buffer, x.T)
buffer.seek(0)
seen = {
    "view as it reads": x.T.tolist(),
    "view, read back": load(save({"x": x.T}))["x"].tolist(),
    "copy, read back": load(save({"x": np.ascontiguousarray(x.T)}))["x"].tolist(),
    "numpy.save, back": np.load(buffer).tolist(),
}
right = [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
stated = {
    "view as it reads": right,
    "view, read back": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]],
    "copy, read back": right,
    "numpy.save, back": right,
}
for name, value in seen.items():
    print(f"{name:18} {value}")
if seen != stated:
    sys.exit(f"no longer as stated: {stated}")
PY
