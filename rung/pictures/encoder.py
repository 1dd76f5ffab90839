"""A vision encoder: a frozen model that turns pictures into vectors, and texts too where it can.

encoder = load(bases.resolve("efficientnet-lite0"))
pixels = encoder.pixels([picture])      # (1, 3, 224, 224), prepared as the encoder's processor does
encoder.pooled(pixels)                  # (1, 1280), one vector of a picture
encoder.tokens(pixels)                  # (1, 49, 1280), its patches
encoder.texts(["a photo of an apple"])  # (1, d), CLIP and SigLIP alone
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rung.bases.folder import inspect, read_json
from rung.bases.loaded import check_device, quiet, read_tokenizer
from rung.bases.modality import family_of
from rung.errors import ArtefactError, Interrupted, MethodMisfit
from rung.pictures import reading
from rung.pictures.families import FAMILIES, Family
from rung.pictures.preprocessing import Preprocessing
from rung.types import BaseInfo, Picture

BATCH = 32  # pictures of a pass
# Of convolutions on a CPU, whose maps then stay in the caches of its cores: 10 ms a picture in place of
# 13 (EfficientNet-Lite0 on two cores).
SMALL_BATCH = 8
TEXT_BATCH = 64  # texts of a pass


@dataclass(frozen=True)
class TextTokens:
    """Texts as a text tower reads them: ids (n, t), and mask (n, t), 0 where a text has ended."""

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PictureEncoder:
    """A frozen encoder in memory.

    Attributes:
        info: where it comes from; `info.digest` identifies its weights.
        model: the module, in eval mode without gradients.
        family: how it is built. preprocessing: how pictures are prepared for it.
    """

    info: BaseInfo
    model: Any
    family: Family
    preprocessing: Preprocessing

    @property
    def digest(self) -> str:
        """What identifies its features: its weights and its preprocessing."""
        return self.info.digest

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def batch(self) -> int:
        """Pictures of a pass that is fast."""
        return SMALL_BATCH if self._channels_last else BATCH

    @property
    def _channels_last(self) -> bool:
        return self.family.maps and self.device.type == "cpu"

    @property
    def tower(self) -> Any:
        """The module that reads pixels."""
        return self.family.tower(self.model)

    @property
    def blocks(self) -> nn.ModuleList:
        """The tower's blocks, first to last."""
        return self.family.blocks(self.tower)

    @property
    def speaks(self) -> bool:
        """Whether texts and pictures share a space, so that names alone tell classes apart."""
        return self.family.texts and hasattr(self.model, "text_model")

    @cached_property
    def width(self) -> int:
        """Numbers of a pooled vector."""
        return self._sizes[0]

    @cached_property
    def token_width(self) -> int:
        """Numbers of a token."""
        return self._sizes[1]

    @cached_property
    def token_count(self) -> int:
        """Tokens of a picture that has the size which preprocessing gives, those in front included."""
        return self._sizes[2]

    @cached_property
    def _sizes(self) -> tuple[int, int, int]:
        """Width of pooled vectors, width and count of tokens, by encoding a black picture."""
        height, width = self.size
        pixels = torch.zeros(1, 3, height, width, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            tokens, pooled = self.finish(self.between(pixels))
        return pooled.shape[1], tokens.shape[2], tokens.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of what it reads.

        Raises:
            ArtefactError: where preprocessing leaves pictures as large as they are.
        """
        found = self.preprocessing.crop or self.preprocessing.size
        if found is None:
            raise ArtefactError(
                f"{self.info.name}: its preprocessor_config.json gives pictures no size of their own"
            )
        return found

    # --- pictures ---------------------------------------------------------------------------------

    def pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures -> (n, 3, height, width) on the encoder's device.

        Raises:
            DataError: for a picture that cannot be read.
        """
        arrays = [self.preprocessing.array(reading.read(picture)) for picture in pictures]
        if not arrays:
            return torch.empty(0, 3, *self.size, dtype=self.dtype, device=self.device)
        found = torch.stack([torch.from_numpy(array) for array in arrays])
        return found.to(self.device, self.dtype)

    def pooled(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) -> (n, d); of CLIP and SigLIP in the space of texts, not normalised."""
        return self.finish(self.between(pixels))[1]

    def tokens(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) -> (n, t, d), `family.front` tokens before the patches."""
        return self.finish(self.between(pixels))[0]

    def between(self, pixels: Tensor, last: int | None = None) -> Tensor:
        """What leaves the block before `last` (None: the last of all)."""
        if self._channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        states = self.family.stem(self.tower, pixels)
        return self.run(states, 0, last)

    def run(self, states: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """What enters block `first` -> what leaves the block before `last`."""
        if self._channels_last:
            states = states.contiguous(memory_format=torch.channels_last)
        for block in self.blocks[first:last]:
            states = _alone(block(states, None) if self._masked else block(states))
        return states

    def finish(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What leaves the last block -> tokens (n, t, d) and pooled (n, d')."""
        return self.family.finish(self.model, states)

    @cached_property
    def _masked(self) -> bool:
        """Whether blocks take an attention mask beside their states."""
        import inspect as signatures

        if not len(self.blocks):
            return False
        second = list(signatures.signature(self.blocks[0].forward).parameters)[1:2]
        return second == ["attention_mask"]

    def encode(
        self, pictures: Sequence[Picture], stopping: Callable[[], bool] = lambda: False
    ) -> Tensor:
        """Pictures -> (n, d) float32 on the CPU, `pooled` in passes of `batch`.

        Raises:
            Interrupted: when `stopping` says so. DataError: for a picture that cannot be read.
        """
        found = torch.empty(len(pictures), self.width)
        with torch.no_grad():
            for rows, pixels in self.passes(pictures, stopping):
                found[rows] = self.pooled(pixels).float().cpu()
        return found

    def passes(
        self, pictures: Sequence[Picture], stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Pictures in passes of `batch` -> rows and pixels of each; the next ones are read meanwhile.

        Raises:
            Interrupted: when `stopping` says so. DataError: for a picture that cannot be read.
        """
        starts = range(0, len(pictures), self.batch)
        with ThreadPoolExecutor(1, "rung-pixels") as reader:
            ahead = [reader.submit(self.pixels, pictures[n : n + self.batch]) for n in starts[:1]]
            for first in starts:
                if stopping():
                    raise Interrupted
                pixels = ahead.pop().result()
                after = first + self.batch
                if after < len(pictures):
                    ahead.append(reader.submit(self.pixels, pictures[after : after + self.batch]))
                yield slice(first, first + len(pixels)), pixels

    def cells(
        self, pictures: Sequence[Picture], side: int, stopping: Callable[[], bool] = lambda: False
    ) -> Tensor:
        """Pictures -> their patches averaged to side x side cells, row by row: (n, side * side, e)
        float32 on the CPU.

        Raises:
            MethodMisfit: the patches are fewer, or no square. Else as `encode`.
        """
        patches = math.isqrt(self.token_count - self.family.front)
        if patches**2 != self.token_count - self.family.front or side > patches:
            raise MethodMisfit(
                f"{self.info.name} has {self.token_count - self.family.front} patches, which make no "
                f"{side} x {side} cells"
            )
        found = torch.empty(len(pictures), side * side, self.token_width)
        with torch.no_grad():
            for rows, pixels in self.passes(pictures, stopping):
                whole = self.tokens(pixels)[:, self.family.front :].float()
                maps = whole.transpose(1, 2).unflatten(2, (patches, patches))
                small = nn.functional.adaptive_avg_pool2d(maps, side)
                found[rows] = small.flatten(2).transpose(1, 2).cpu()
        return found

    # --- texts ------------------------------------------------------------------------------------

    @cached_property
    def tokenizer(self) -> Any:
        """The text tower's. Raises ArtefactError where the folder has none."""
        with quiet():
            return read_tokenizer(Path(self.info.path))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(n,) texts -> (n, d) float32 on the CPU in the space of `pooled`, not normalised.

        Entities of HTML are read as what they stand for, as CLIP's own tokenizer does. A text that is
        too long is cut.

        Raises:
            MethodMisfit: the encoder has no text tower.
        """
        if not self.speaks:
            raise MethodMisfit(f"{self.info.name} reads no texts, only pictures: use CLIP or SigLIP")
        found = []
        with torch.no_grad():
            for first in range(0, len(texts), TEXT_BATCH):
                vectors = self.of_tokens(self.tokenized(texts[first : first + TEXT_BATCH]))
                found.append(vectors.float().cpu())
        return torch.cat(found) if found else torch.empty(0, self.width)

    @property
    def longest_text(self) -> int:
        """Tokens that its text tower reads at most."""
        return self.model.config.text_config.max_position_embeddings

    def tokenized(self, texts: Sequence[str], room: int = 0) -> TextTokens:
        """Texts -> tokens as `texts` reads them, padded to the longest text less `room` tokens.

        Raises:
            ArtefactError: the folder has no tokenizer.
        """
        plain = [html.unescape(html.unescape(text)).strip() for text in texts]
        given = self.tokenizer(
            plain, padding="max_length", truncation=True, max_length=self.longest_text - room,
            return_tensors="pt",
        ).to(self.device)  # fmt: skip
        ids = given["input_ids"]
        return TextTokens(ids, given.get("attention_mask", torch.ones_like(ids)))

    @property
    def reads_padding(self) -> bool:
        """Whether the text tower looks at what stands behind a text's end, as SigLIP was trained to."""
        return self.model.config.model_type == "siglip"

    def of_tokens(self, tokens: TextTokens) -> Tensor:
        """(n, t) tokens -> (n, d) in the space of `pooled`, not normalised, with gradients."""
        mask = {} if self.reads_padding else {"attention_mask": tokens.mask}
        vectors = self.model.get_text_features(input_ids=tokens.ids, **mask)
        return vectors if isinstance(vectors, Tensor) else vectors.pooler_output

    @property
    def scale(self) -> float:
        """What cosines of pictures and texts are multiplied by before a softmax, as it was learnt."""
        return float(self.model.logit_scale.detach().exp())


def load(info: BaseInfo, *, dtype: str = "float32", device: str = "cpu") -> PictureEncoder:
    """Load a resolved vision base into memory.

    Raises:
        ArtefactError: unsafe, damaged, or no vision encoder that is known.
        ConfigError: no such device.
    """
    check_device(device)
    path = Path(info.path)
    inspect(path)
    kind = family_of(path)
    if kind is None:
        told = read_json(path / "config.json").get("model_type")
        raise ArtefactError(
            f"{path} is no vision encoder that is known ('{told}'): {', '.join(FAMILIES)}"
        )
    preprocessing = Preprocessing.of(path)
    wanted = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    model: Any = _efficientnet(path) if kind == "efficientnet-lite" else _transformers(path)
    model = model.to(device, wanted).eval().requires_grad_(False)
    if FAMILIES[kind].maps and device == "cpu":  # convolutions are several times faster so
        model = model.to(memory_format=torch.channels_last)
    return PictureEncoder(info, model, FAMILIES[kind], preprocessing)


def _efficientnet(path: Path) -> nn.Module:
    from safetensors.torch import load_file

    from rung.pictures.efficientnet import EfficientNetLite

    try:
        with torch.device("meta"):
            model = EfficientNetLite(read_json(path / "config.json"))
        model.load_state_dict(load_file(path / "model.safetensors"), strict=False, assign=True)
        lacking = sorted(n for n, t in model.state_dict().items() if t.is_meta and t.dim())
    except (RuntimeError, KeyError, TypeError, ValueError, OSError) as fault:
        reason = (str(fault).strip().splitlines() or [repr(fault)])[-1].strip()
        raise ArtefactError(f"{path} cannot be loaded as EfficientNet-Lite: {reason}") from None
    if lacking:
        raise ArtefactError(f"{path} lacks {len(lacking)} weights of its network, such as {lacking[0]}")
    for name, counter in list(model.named_buffers()):  # how many batches were seen: not used
        if counter.is_meta:
            owner = model.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.zeros((), dtype=torch.long))
    return model


def _transformers(path: Path) -> Any:
    """The model without a classifying head.

    Raises:
        ArtefactError: transformers cannot load it, or weights that it needs are not in the files.
    """
    from transformers import AutoModel

    try:
        with quiet():
            loaded: Any = AutoModel.from_pretrained(
                path, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True, dtype=torch.float32,
            )  # fmt: skip
    except (ValueError, OSError, KeyError, RuntimeError, TypeError, ImportError) as fault:
        reason = (str(fault).strip().splitlines() or [repr(fault)])[0][:300]
        raise ArtefactError(f"{path} cannot be loaded as a vision encoder: {reason}") from fault
    model, report = loaded
    # ViT's pooler stands behind the class token, which is what is used here.
    lacking = sorted(str(k) for k in report["missing_keys"] if not str(k).startswith("pooler."))
    lacking += sorted(str(k) for k in report["mismatched_keys"])
    if lacking:
        raise ArtefactError(
            f"{path} lacks {len(lacking)} weights of a vision encoder, such as {lacking[0]}"
        )
    return model


def _alone(out: Any) -> Tensor:
    """A block's states, from the tuple that some versions of transformers wrap them in."""
    return out[0] if isinstance(out, tuple) else out
