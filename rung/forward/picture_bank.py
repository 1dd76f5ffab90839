"""One frozen vision encoder, many adapters: the bank of bases that read pictures.

A prompt has one token for each picture in it, so that what counts and bounds tokens counts pictures.
An adapter has a classifier, and weights of its own in place of the encoder's. Vectors of the bare
encoder are computed once for each picture, whoever asks: kept in memory by the picture's digest, and on
disk for each set of pictures that was encoded together.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rung.errors import ArtefactError, DataError
from rung.forward import feature_cache
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.findings import Findings
from rung.forward.llama.prepacked import Packing
from rung.forward.op import LinearOp
from rung.pictures.encoder import PictureEncoder, TextTokens
from rung.types import Modality, Picture, Prompt

MAX_PICTURES = 16  # in one prompt
KEPT_BYTES = 256 << 20  # of vectors in memory; the one not used for longest goes first
MUTE = "it reads pictures and writes no text"
Stopping = Callable[[], bool]
Encode = Callable[[Sequence[Picture], Stopping], Tensor]


class PictureBank(Bank):
    """A vision encoder with its resident adapters.

    Attributes:
        encoder: the frozen encoder. encoded: pictures that it has encoded so far, for the trace.
    """

    reads: ClassVar[Modality] = "pictures"

    def __init__(self, encoder: PictureEncoder):
        # Nothing of a language model's bank is set up: there are no tokens, attention or tries.
        self.encoder = encoder
        self.model = encoder.model
        self.digest = encoder.digest
        self.adapters: dict[int, Adapter] = {}
        self.config = SimpleNamespace(
            num_hidden_layers=len(encoder.blocks), hidden_size=encoder.width, intermediate_size=0
        )
        self.modules = dict(self.model.named_modules())
        self.layer_names = []
        self.findings = Findings(causal=MUTE)
        self.why_not = MUTE
        self.plan = self.slots = None
        self.inference = None
        self.encoded = 0
        self._seams = {}
        self._next = 0
        self._kept: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self._held = 0  # bytes of what is kept
        self._lock = threading.RLock()  # engines of several language models may see with it

    def close(self) -> None:
        """Forget the adapters and the vectors."""
        self.adapters.clear()
        self._kept.clear()
        self._held = 0

    # --- facts ------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    @property
    def vocabulary(self) -> int:
        """One token, which stands for a picture."""
        return 1

    @property
    def table_size(self) -> int:
        return 0

    @property
    def width(self) -> int:
        """Numbers of a picture's vector."""
        return self.encoder.width

    @property
    def context(self) -> int:
        """The most pictures of one prompt."""
        return MAX_PICTURES

    def prepare(self, packing: Packing, decoding: bool = False) -> None:
        """Nothing is laid out anew for pictures."""

    def join(self) -> None:
        """Nothing is joined for pictures."""

    def run_tiny(self) -> Tensor:
        """Encode a black picture, and one text where there is a text tower."""
        height, width = self.encoder.size
        pixels = torch.zeros(1, 3, height, width, dtype=self.dtype, device=self.device)
        vectors = self.encoder.pooled(pixels)
        if self.encoder.speaks:
            ids = torch.zeros(1, self.encoder.longest_text, dtype=torch.long, device=self.device)
            vectors = vectors + self.encoder.of_tokens(TextTokens(ids, torch.ones_like(ids)))
        return vectors

    @cached_property
    def uncalled(self) -> frozenset[str]:
        """Modules that encoding calls not, such as a pooler: the model's own pass is not asked."""
        return frozenset(self.modules) - frozenset(self._called)

    def dummy_pass(self, tokens: int) -> None:
        """Encode so many black pictures, whose time is that of any others."""
        height, width = self.encoder.size
        pixels = torch.zeros(tokens, 3, height, width, dtype=self.dtype, device=self.device)
        for part in pixels.split(self.encoder.batch):
            self.encoder.pooled(part)

    # --- adapters ---------------------------------------------------------------------------------

    def put(self, slot: int, adapter: Adapter) -> None:
        self._check(adapter)
        self.adapters[slot] = adapter

    def remove(self, slot: int) -> None:
        self.adapters.pop(slot, None)

    def frozen_below(self, adapter: Adapter) -> int:
        """The first block that an adapter changes."""
        blocks = {id(p): n for n, block in enumerate(self.encoder.blocks) for p in block.parameters()}
        own = dict(self.model.named_parameters())
        names = [*adapter.weights, *(f"{module}.weight" for module in adapter.linear)]
        return min((blocks.get(id(own[name]), self._outside(name)) for name in names),
                   default=len(self.encoder.blocks))  # fmt: skip

    def _outside(self, name: str) -> int:
        """0 for a parameter of the stem, the number of blocks for one behind them."""
        names = list(dict(self.model.named_parameters()))
        own = {id(p) for p in self.encoder.blocks.parameters()}
        first = next(n for n, (_, p) in enumerate(self.model.named_parameters()) if id(p) in own)
        return 0 if names.index(name) < first else len(self.encoder.blocks)

    def _check(self, adapter: Adapter) -> None:
        known = adapter.linear.keys() <= self.modules.keys()
        if adapter.positions or adapter.reward is not None or not known:
            raise ArtefactError("this base reads pictures: was it made for a language model?")
        own = dict(self.model.named_parameters())
        for name, tensor in adapter.weights.items():
            if name not in own or own[name].shape != tensor.shape:
                raise ArtefactError(f"the base has no parameter {name} of shape {tuple(tensor.shape)}")

    @contextlib.contextmanager
    def acting(self, adapter: Adapter) -> Iterator[None]:
        """Put an adapter's weights in the place of the encoder's, and its operations on projections
        beside them, for passes of that adapter alone."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.replaced(adapter.weights))
            for name, op in adapter.linear.items():
                handle = self.modules[name].register_forward_hook(_beside(op))
                stack.callback(handle.remove)
            yield

    @contextlib.contextmanager
    def replaced(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Put weights in the place of the encoder's parameters of those names."""
        before: list[tuple[Any, str, Any]] = []
        for name, tensor in weights.items():
            module, _, leaf = name.rpartition(".")
            owner = self.modules[module]
            before.append((owner, leaf, owner._parameters[leaf]))
            owner._parameters[leaf] = tensor  # type: ignore[assignment]
        try:
            yield
        finally:
            for owner, leaf, own in before:
                owner._parameters[leaf] = own

    # --- vectors ----------------------------------------------------------------------------------

    def features(
        self, pictures: Sequence[Picture], slot: int = -1, *, keep: bool = False,
        stopping: Stopping = lambda: False,
    ) -> Tensor:  # fmt: skip
        """Vectors of pictures: (n, d) float32 on the CPU.

        Args:
            slot: whose weights are used; what changes the encoder is computed anew.
            keep: on disk, for whoever asks the same again.

        Raises:
            Interrupted: when `stopping` says so. DataError: for a picture that cannot be read.
        """
        adapter = self.adapters.get(slot)
        if adapter is not None and (adapter.weights or adapter.linear):
            with self._lock, self.acting(adapter):
                return self._encode(pictures, stopping)
        return self._remembered("pooled", (self.width,), self._encode, pictures, keep, stopping)

    def grid(
        self, pictures: Sequence[Picture], side: int, *, keep: bool = False,
        stopping: Stopping = lambda: False,
    ) -> Tensor:  # fmt: skip
        """Patches of pictures through the bare encoder, averaged to side x side cells, row by row:
        (n, side * side, e) float32 on the CPU.

        Args:
            keep: on disk, for whoever asks the same again.

        Raises:
            MethodMisfit: the encoder's patches are fewer, or no square. Else as `features`.
        """
        shape = (side * side, self.encoder.token_width)

        def encode(part: Sequence[Picture], stopping: Stopping) -> Tensor:
            self.encoded += len(part)
            return self.encoder.cells(part, side, stopping)

        return self._remembered(f"grid {side}", shape, encode, pictures, keep, stopping)

    def look(self, pictures: Sequence[Picture], side: int) -> int:
        """Compute the cells of pictures for when they are asked for -> how many it had to encode.

        Raises:
            DataError: for a picture that cannot be read. MethodMisfit: as `grid`.
        """
        with self._lock:
            before = self.encoded
            self.grid(pictures, side)
            return self.encoded - before

    def _remembered(
        self, kind: str, shape: tuple[int, ...], encode: Encode, pictures: Sequence[Picture],
        keep: bool, stopping: Stopping,
    ) -> Tensor:  # fmt: skip
        """What the bare encoder gives of pictures, each encoded once: (n, *shape).

        Args:
            kind: what it is, beside the picture what it is kept by.
        """
        with self._lock:
            wanted = list(dict.fromkeys(pictures))
            missing = [p for p in wanted if (kind, p) not in self._kept]
            found = {p: self._kept[kind, p] for p in wanted if (kind, p) in self._kept}
            if missing:
                made = self._made(kind, shape, encode, missing, keep, stopping)
                found |= zip(missing, made, strict=True)
                self._held += len(missing) * 4 * math.prod(shape)
            for picture in wanted:
                self._kept[kind, picture] = found[picture]
                self._kept.move_to_end((kind, picture))
            while self._held > KEPT_BYTES:
                self._held -= 4 * self._kept.popitem(last=False)[1].numel()
            return torch.stack([found[p] for p in pictures]) if pictures else torch.empty(0, *shape)

    def _made(
        self, kind: str, shape: tuple[int, ...], encode: Encode, pictures: list[Picture], keep: bool,
        stopping: Stopping,
    ) -> Tensor:  # fmt: skip
        def fill(into: dict[str, Tensor]) -> None:
            into["vectors"].copy_(encode(pictures, stopping))

        name = self.key(kind, *map(str, pictures)) if keep else None
        if name is None:
            return encode(pictures, stopping)
        whole = ((len(pictures), *shape), torch.float32)
        kept = feature_cache.keep(name, {"vectors": whole}, fill)
        return encode(pictures, stopping) if kept is None else kept["vectors"]

    def _encode(self, pictures: Sequence[Picture], stopping: Stopping) -> Tensor:
        self.encoded += len(pictures)
        return self.encoder.encode(pictures, stopping)

    def states(  # type: ignore[override]
        self, pictures: Sequence[Picture], block: int, stopping: Stopping = lambda: False
    ) -> Tensor:
        """What enters a block, for pictures: (n, ...) float32 on the CPU, kept on disk.

        Raises:
            Interrupted: when `stopping` says so. MemoryError: neither disk nor memory has room.
        """
        with torch.no_grad():
            one = self.encoder.between(self.encoder.pixels(pictures[:1]), block)
        shape = ((len(pictures), *one.shape[1:]), torch.float32)

        def fill(into: dict[str, Tensor]) -> None:
            self.encoded += len(pictures)
            with torch.no_grad():
                for rows, pixels in self.encoder.passes(pictures, stopping):
                    into["states"][rows] = self.encoder.between(pixels, block).float().cpu()

        found = feature_cache.keep(
            self.key("states", block, *map(str, pictures)), {"states": shape}, fill
        )
        if found is None:
            raise MemoryError("the states of all pictures fit neither on disk nor into memory")
        return found["states"]

    def key(self, *parts: Any) -> str | None:
        """What identifies what is computed of pictures: encoder, preprocessing, precision, `parts`."""
        if not self.digest:
            return None
        prepared = self.encoder.preprocessing.as_dict()
        return feature_cache.named(
            self.digest, prepared, str(self.dtype), str(self.device.type), *parts
        )


def _beside(op: LinearOp) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    """A forward hook that applies an operation to what a projection gives: (..., d_out)."""

    def hook(module: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        flat = args[0].reshape(-1, args[0].shape[-1])
        return op.after(flat, out.reshape(-1, out.shape[-1])).view(out.shape)

    return hook


def picture_of(prompt: Prompt) -> Picture:
    """The picture that a prompt asks about, the last one of its last question with one.

    Raises:
        DataError: when it has none.
    """
    for message in reversed(prompt.messages):
        if message.get("pictures"):
            return message["pictures"][-1]
    raise DataError("this model reads a picture, and the request has none")
