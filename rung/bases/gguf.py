"""GGUF files: converted once into safetensors, then loaded as any other base.

transformers can read a GGUF on each start, but takes ten times as long as for safetensors, and
refuses to save what it read until the quantisation is taken out of the model's configuration.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.bases import gguf_rope
from rung.bases.cache import make_base, sha256_once, telling
from rung.bases.folder import inspect
from rung.bases.header import read_header
from rung.bases.loaded import quiet
from rung.errors import ArtefactError

# Above this many weights the folder is written in bfloat16, as float32 takes four bytes for each;
# below it, being exact is worth the space.
FLOAT32_MOST = 2_000_000_000
# Raised when what is written changes, so that older conversions are not taken for current ones.
VERSION = 2


def convert(file: Path, *, spec: str) -> tuple[Path, str]:
    """The folder that a GGUF file converts to, and the file's SHA-256.

    Raises:
        ArtefactError: not a GGUF, cut short, or an architecture that transformers cannot read.
    """
    digest = sha256_once(file)

    def fill(target: Path) -> dict[str, Any]:
        with telling(f"converting {file.name} to safetensors, once"):
            named = write(file, target)
        return {"name": file.stem, "spec": spec, "source": digest, "licence": named}

    folder = make_base(f"gguf-{VERSION}-{digest[:32]}", fill, usable)
    return folder, digest


def usable(folder: Path) -> bool:
    """Whether a conversion is whole; one that is damaged is made again."""
    try:
        inspect(folder)
    except ArtefactError:
        return False
    return True


def write(file: Path, target: Path) -> str:
    """Convert `file` into the folder `target`; returns the licence the file names.

    Raises:
        ArtefactError: transformers cannot read it, with its reason.
    """
    header = read_header(file)
    try:
        model, tokenizer = read(file, header["parameters"] <= FLOAT32_MOST)
    except Exception as fault:
        reason = (str(fault).strip().splitlines() or [repr(fault)])[0]
        raise ArtefactError(f"{file} cannot be converted: {reason}") from fault
    # Without these two the model counts as quantised and will not be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    repair_tokenizer(tokenizer, header)
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return str(header.get("general.license", "unknown"))


def read(file: Path, exact: bool) -> tuple[Any, Any]:
    """Model and tokenizer as transformers reads them from a GGUF, in float32 when `exact`.

    Raises:
        ValueError: weights are missing. Others: whatever transformers meets.
    """
    from transformers import AutoTokenizer

    with _reading(file) as (folder, source):
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
    return read_model(file, exact), tokenizer


def read_model(file: Path, exact: bool) -> Any:
    """The model alone. Raises as `read`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    header = read_header(file)
    with _reading(file) as (folder, source):
        config = AutoConfig.from_pretrained(folder, **source)
        gguf_rope.scale(config, header)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32 if exact else torch.bfloat16,
            output_loading_info=True,
            **source,
        )
    model, report = loaded
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise ValueError(f"it lacks {len(lacking)} weights, such as {lacking[0]}")
    return model


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A folder that holds the file alone, and what transformers is told to read it from there."""
    source = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    with (
        tempfile.TemporaryDirectory() as alone,  # so that nothing beside the file is read
        quiet(),
        # transformers draws a progress bar without asking its own logging settings.
        contextlib.redirect_stderr(io.StringIO()),
    ):
        (Path(alone) / file.name).symlink_to(file.resolve())
        yield alone, source


def repair_tokenizer(tokenizer: Any, header: dict[str, Any]) -> None:
    """Put back what the conversion of the tokenizer may lose.

    - The tokenizer adds the beginning-of-text token when, and only when, the GGUF says so.
    - SmolLM splits digits one by one before the merges; without it, spaces before a number are
      cut otherwise than in training.
    """
    from tokenizers import pre_tokenizers

    adds = header.get("tokenizer.ggml.add_bos_token")
    plain = header.get("tokenizer.ggml.model") in ("llama", "gpt2")
    if plain and adds is not None and adds != bool(getattr(tokenizer, "add_bos_token", adds)):
        tokenizer.add_bos_token = adds
    if header.get("tokenizer.ggml.pre") == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise])
