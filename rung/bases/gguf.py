"""GGUF files: converted once into safetensors, then loaded as any other base.

transformers can read a GGUF on each start, but takes ten times as long as for safetensors, and
refuses to save what it read until the quantisation is taken out of the model's configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.bases.cache import make_base, sha256_once, telling
from rung.bases.folder import inspect
from rung.errors import ArtefactError, RungError

# Above this many weights the folder is written in bfloat16: float32 would take four bytes each, and
# a quantised file has nothing that the last bits could keep. Below it, exactness is worth the space.
FLOAT32_MOST = 2_000_000_000
# Raised when what is written changes, so that older conversions are not taken for current ones.
VERSION = 1


def convert(file: Path, *, spec: str) -> tuple[Path, str]:
    """The folder that a GGUF file converts to, and the file's SHA-256.

    Raises:
        ArtefactError: not a GGUF, cut short, or an architecture that transformers cannot read.
    """
    with file.open("rb") as start:
        if start.read(4) != b"GGUF":
            raise ArtefactError(f"{file} is not a GGUF file")
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
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rung.bases.loaded import quiet

    try:
        header = read_header(file)
        dtype = torch.float32 if header["parameters"] <= FLOAT32_MOST else torch.bfloat16
        with quiet():
            source = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
            model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=dtype, **source)
    except RungError:
        raise
    except Exception as fault:
        raise ArtefactError(f"{file} cannot be converted ({fault})") from fault
    # Without these two the model counts as quantised and will not be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    repair_tokenizer(tokenizer, header)
    with quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return str(header.get("general.license", "unknown"))


def read_header(file: Path) -> dict[str, Any]:
    """The short fields of a GGUF and its number of weights, as `parameters`."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    wanted = ("general.license", "tokenizer.ggml.model", "tokenizer.ggml.pre")
    wanted += ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token")
    header = {k: reader.fields[k].contents() for k in wanted if k in reader.fields}
    kinds = reader.fields.get("tokenizer.ggml.token_type")
    header["control"] = [i for i, k in enumerate(kinds.contents()) if k == 3] if kinds else []
    header["parameters"] = sum(int(t.n_elements) for t in reader.tensors)
    return header


def repair_tokenizer(tokenizer: Any, header: dict[str, Any]) -> None:
    """Put back what the conversion of the tokenizer loses.

    - The beginning-of-text token is added by the tokenizer exactly when the GGUF says so (its own
      default: yes for SentencePiece vocabularies, no for byte-level ones).
    - Control tokens are special, so that text which looks like one is never split otherwise.
    - SmolLM splits digits one by one before the merges.
    """
    from tokenizers import pre_tokenizers
    from transformers import AddedToken

    adds_bos = header.get(
        "tokenizer.ggml.add_bos_token", header.get("tokenizer.ggml.model") == "llama"
    )
    if bool(adds_bos) != bool(getattr(tokenizer, "add_bos_token", False)):
        tokenizer.add_bos_token = bool(adds_bos)
    control = tokenizer.convert_ids_to_tokens(header["control"])
    tokenizer.add_tokens(
        [AddedToken(t, special=True, normalized=False) for t in control], special_tokens=True
    )
    if header.get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
