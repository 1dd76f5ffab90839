"""Families of vision encoders: where their blocks are, and what stands before and behind them.

One entry for each `model_type` of a config.json. All families are the same three steps: a stem from
pixels to what enters the first block, a list of blocks, and a finish that gives tokens and one pooled
vector. So a training of the last blocks can begin from what enters them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Finish = Callable[[Any, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family.

    Attributes:
        tower: (model) -> the module that reads pixels; everything else is of the text tower.
        blocks: (tower) -> its blocks, first to last; each takes and gives one tensor.
        stem: (tower, pixels (n, 3, h, w)) -> what enters the first block.
        finish: (model, what leaves the last block) -> tokens (n, t, d) and pooled (n, d').
        front: tokens in front of the patches, such as a class token.
        maps: whether maps pass between blocks, of convolutions, and not tokens.
        texts: whether it has a text tower that shares the space of pooled pictures.
    """

    tower: Callable[[Any], Any]
    blocks: Callable[[Any], nn.ModuleList]
    stem: Callable[[Any, Tensor], Tensor]
    finish: Finish
    front: int = 0
    maps: bool = False
    texts: bool = False


def _vision(model: Any) -> Any:
    """The vision tower of a model of two; `CLIPVisionModel` and its like are one already."""
    return getattr(model, "vision_model", model)


def _itself(model: Any) -> Any:
    return model


def flat(maps: Tensor) -> Tensor:
    """Maps (n, d, h, w) -> tokens (n, h w, d), row by row."""
    return maps.flatten(2).transpose(1, 2)


def _clip_stem(tower: Any, pixels: Tensor) -> Tensor:
    norm = tower.pre_layrnorm if hasattr(tower, "pre_layrnorm") else tower.pre_layernorm
    return norm(tower.embeddings(pixels))


def _clip(model: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    pooled = _vision(model).post_layernorm(states[:, 0])
    projection = getattr(model, "visual_projection", None)
    return states, pooled if projection is None else projection(pooled)


def _siglip(model: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    tower = _vision(model)
    tokens = tower.post_layernorm(states)
    return tokens, tower.head(tokens)


def _class_token(model: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    tokens = model.layernorm(states)
    return tokens, tokens[:, 0]


def _convnext(model: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
    return flat(maps), model.layernorm(maps.mean([-2, -1]))


def _resnet(model: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
    return flat(maps), model.pooler(maps).flatten(1)


def _efficientnet(model: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
    finished = model.finish(maps)
    return flat(finished), finished.mean(dim=(2, 3))


def _vit_layers(model: Any) -> nn.ModuleList:
    return model.layers if hasattr(model, "layers") else model.encoder.layer


CLIP = Family(
    tower=_vision, blocks=lambda t: t.encoder.layers, stem=_clip_stem, finish=_clip, front=1, texts=True
)
SIGLIP = Family(
    tower=_vision, blocks=lambda t: t.encoder.layers, stem=lambda t, x: t.embeddings(x),
    finish=_siglip, texts=True,
)  # fmt: skip
FAMILIES = {
    "clip": CLIP,
    "siglip": SIGLIP,
    "vit": Family(tower=_itself, blocks=_vit_layers, stem=lambda t, x: t.embeddings(x),
                  finish=_class_token, front=1),
    "dinov2": Family(tower=_itself, blocks=lambda t: t.encoder.layer,
                     stem=lambda t, x: t.embeddings(x), finish=_class_token, front=1),
    "convnext": Family(tower=_itself, blocks=lambda t: t.encoder.stages,
                       stem=lambda t, x: t.embeddings(x), finish=_convnext, maps=True),
    "resnet": Family(tower=_itself, blocks=lambda t: t.encoder.stages,
                     stem=lambda t, x: t.embedder(x), finish=_resnet, maps=True),
    "efficientnet-lite": Family(tower=_itself, blocks=lambda t: t._blocks,
                                stem=lambda t, x: t.stem(x), finish=_efficientnet, maps=True),
}  # fmt: skip
