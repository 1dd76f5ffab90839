"""A fresh model: random weights in a small Llama, and a tokenizer trained on the user's data.

    scratch:                                  a size that suits the amount of text
    scratch:layers=4,width=256,vocab=4096     some of it set

The tokenizer is a byte-level BPE with ChatML's turn markers, so any text can be written with it.
The same spec and the same texts give the same folder. `resolve` answers with the digest of the
texts in the spec (`...,data=DIGEST`), by which the folder is found again without them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.bases.cache import make_base, telling
from rung.bases.folder import digest_of, inspect
from rung.bases.loaded import quiet
from rung.config import knob
from rung.config import resolve as resolve_knobs
from rung.errors import ArtefactError, BaseNotFound, ConfigError
from rung.types import BaseInfo

END_OF_TEXT, TURN, END_OF_TURN, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL = (END_OF_TEXT, TURN, END_OF_TURN, PAD)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Merges settle long before this; more text only costs memory and minutes.
CHARACTERS_MOST = 64_000_000
# Of the context that is chosen: places cost nothing until tokens are there.
CONTEXT_LEAST, CONTEXT_MOST = 512, 8192
# Tokens around a text, its first turns and the reply's end among them; and around each further turn.
MARKERS, TURN_MARKERS = 64, 16
NO_DATA = "none"
LICENCE = "cc0-1.0"


@dataclass(frozen=True)
class ScratchKnobs:
    """The shape of a fresh model."""

    group = "scratch"
    layers: int | None = knob(None, "Transformer layers; by the text when not set.", least=1, most=1024)
    width: int | None = knob(
        None, "Size of the hidden state; by the text when not set.", least=8, most=65536
    )
    heads: int | None = knob(
        None, "Attention heads; they divide the width. One for each 64 of it.", least=1, most=1024
    )
    kv_heads: int | None = knob(None, "Key and value heads; as many as heads when not set.", least=1)
    vocab: int | None = knob(
        None, "Most entries of the vocabulary; by the text when not set.", least=260, most=1_000_000
    )
    context: int | None = knob(
        None, "Longest sequence in tokens; by the longest text when not set.", least=8, most=10_000_000
    )
    seed: int = knob(0, "Draws the weights.", least=0)
    data: str | None = knob(None, "Digest of the texts that the tokenizer was trained on.")


@dataclass(frozen=True)
class Size:
    """A shape for texts of at most so many characters.

    About one parameter for each two characters, which is more than the text can fill and few enough to
    be trained in minutes; smaller ones learn less from it (tried on headlines and quotations).
    """

    characters: float
    layers: int
    width: int
    vocab: int


SIZES = (
    Size(100_000, 3, 128, 512),
    Size(1_000_000, 4, 128, 1024),
    Size(4_000_000, 4, 192, 2048),
    Size(16_000_000, 6, 256, 4096),
    Size(float("inf"), 8, 384, 8192),
)


def parse(spec: str, characters: int = 0, longest: int = 0) -> ScratchKnobs:
    """`scratch:name=value,...` as checked knobs, what is not named chosen by the amount of text.

    Args:
        characters: of all texts. longest: bytes of the longest one.

    Raises:
        ConfigError: an unknown name, a bad value, or sizes that do not fit each other.
    """
    settings: dict[str, Any] = {}
    for pair in filter(None, (p.strip() for p in spec.partition(":")[2].split(","))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"'{pair}' in '{spec}' must read name=value")
        settings[name.strip()] = value.strip()
    knobs = filled(resolve_knobs([ScratchKnobs], settings)[0], characters, longest)
    assert knobs.width and knobs.heads
    if knobs.width % (2 * knobs.heads):
        raise ConfigError(
            f"scratch: width {knobs.width} must be a multiple of twice its {knobs.heads} heads"
        )
    if knobs.heads % (knobs.kv_heads or knobs.heads):
        raise ConfigError(f"scratch: kv_heads {knobs.kv_heads} must divide heads {knobs.heads}")
    return knobs


def filled(knobs: ScratchKnobs, characters: int, longest: int = 0) -> ScratchKnobs:
    """The knobs with a size for texts of so many characters where none was asked for, and a context for
    the longest of them, in bytes."""
    size = next(s for s in SIZES if characters <= s.characters)
    width = knobs.width or size.width
    return dataclasses.replace(
        knobs,
        layers=knobs.layers or size.layers,
        width=width,
        heads=knobs.heads or _heads(width),
        vocab=knobs.vocab or size.vocab,
        context=knobs.context or _context(longest),
    )


def _bytes(text: str) -> int:
    """Bytes of a text, with those that stand for the markers of each of its turns, a line or more."""
    return len(text.encode("utf-8", "surrogatepass")) + TURN_MARKERS * text.count("\n")


def _context(longest: int) -> int:
    """A power of two that holds a text of so many bytes however it is cut: a token has one at least."""
    most = longest + MARKERS
    return min(CONTEXT_MOST, max(CONTEXT_LEAST, 1 << (most - 1).bit_length()))


def _heads(width: int) -> int:
    """About one for each 64 of the width, in a number that divides it with even parts."""
    return max((h for h in range(1, max(1, width // 64) + 1) if width % (2 * h) == 0), default=1)


def resolve(spec: str, data: Iterable[str] | None) -> BaseInfo:
    """The folder of a fresh base, made when it is not in the cache.

    Args:
        spec: `scratch:...`, see `ScratchKnobs`.
        data: texts for the tokenizer. A spec that names the digest of texts is the folder made earlier
            from those, whatever texts are given. None, and no digest: a tokenizer of single bytes.

    Raises:
        ConfigError: as `parse`. BaseNotFound: the spec names texts, others or none are given and no
            folder made from them is in the cache.
    """
    texts = take(data) if data is not None else []
    longest = max((_bytes(t) for t in texts), default=0)
    knobs = parse(spec, sum(map(len, texts)), longest)
    given = digest_texts(texts) if texts else NO_DATA
    knobs = dataclasses.replace(knobs, data=knobs.data or given)
    full = spell(knobs)
    key = f"scratch-{hashlib.sha256(full.encode()).hexdigest()[:32]}"

    def fill(target: Path) -> dict[str, Any]:
        if knobs.data not in (given, NO_DATA):
            raise BaseNotFound(
                f"'{full}' was made from texts and is not in the cache: give the data it was made from"
            )
        with telling("making a fresh base"):
            write(knobs, texts if knobs.data == given else [], target)
        return {"name": name, "spec": full, "licence": LICENCE}

    name = f"scratch-{key[8:16]}"
    path = make_base(key, fill, usable)
    digest = digest_of(path, inspect(path))
    # Random numbers are nobody's work: what a model built on them may be used for is decided by
    # the licence of the data alone.
    return BaseInfo(
        name, full, str(path), digest, LICENCE, "permissive", extra={"context": str(knobs.context)}
    )


def usable(path: Path) -> bool:
    """Whether a folder made earlier is whole."""
    try:
        inspect(path)
    except ArtefactError:
        return False
    return True


def take(data: Iterable[str]) -> list[str]:
    """The texts up to `CHARACTERS_MOST` characters, without empty ones."""
    texts: list[str] = []
    room = CHARACTERS_MOST
    for text in data:
        if room <= 0:
            break
        if text:
            texts.append(text[:room])
            room -= len(text)
    return texts


def digest_texts(texts: list[str]) -> str:
    """The first 16 hex digits of a SHA-256 over the texts, each with its length."""
    whole = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        whole.update(len(content).to_bytes(8, "big") + content)
    return whole.hexdigest()[:16]


def spell(knobs: ScratchKnobs) -> str:
    """The spec with every setting named, in the order of the fields."""
    pairs = [f"{k}={v}" for k, v in dataclasses.asdict(knobs).items() if v is not None]
    return "scratch:" + ",".join(pairs)


def write(knobs: ScratchKnobs, texts: list[str], target: Path) -> None:
    """Make the model and its tokenizer in the folder `target`."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    assert knobs.layers and knobs.width and knobs.heads and knobs.vocab and knobs.context
    tokenizer = train_tokenizer(texts, knobs.vocab, knobs.context)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=knobs.width,
        intermediate_size=-(-knobs.width * 8 // 3 // 64) * 64,  # the usual gated width, even
        num_hidden_layers=knobs.layers,
        num_attention_heads=knobs.heads,
        num_key_value_heads=knobs.kv_heads or knobs.heads,
        max_position_embeddings=knobs.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TEXT)]
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(knobs.seed)
        model = LlamaForCausalLM(config)
        model.generation_config = GenerationConfig(
            eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def train_tokenizer(texts: list[str], vocab: int, context: int) -> Any:
    """A byte-level BPE of at most `vocab` entries, with ChatML's markers as special tokens.

    The padding token is one of its own: were it the end of turn, masking the padding would mask the
    token that a reply has to end with.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise])  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((t.encode("utf-8", "replace").decode() for t in texts), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[END_OF_TEXT, TURN],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast
