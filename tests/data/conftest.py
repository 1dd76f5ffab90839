"""Small tokenizers of three families, and chat templates of the shapes found in the wild."""

from __future__ import annotations

import functools
import json

import pytest

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "system user assistant model You are helpful. Question? Answer! INST",
    "0 1 2 3 4 5 6 7 8 9 < | > _ [ ] / \n",
] * 4
SPECIAL = ["<|begin|>", "<|im_start|>", "<|im_end|>", "<|end_of_text|>"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
) + CHATML
# Llama 3: its own beginning of text, trimmed content.
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' + (m.content | trim)"
    " + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
# Llama 2 and Mistral: no generation prompt of its own, plain-text markers, end of text ends a turn.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
# Qwen 3: an empty thought in front of the last reply, none in earlier ones.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# DeepSeek R1: the generation prompt opens a thought that finished turns do not show.
OPENED = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")
NO_GENERATION_PROMPT = CHATML.partition("{% if add_generation_prompt %}")[0]
NO_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TEMPLATES = {
    "plain": None,
    "chatml": CHATML,
    "default-system": CHATML_DEFAULT_SYSTEM,
    "trimmed": TRIMMED,
    "inst": INST,
    "thinking": THINKING,
    "opened": OPENED,
    "no-end": NO_END,
}


@functools.cache
def backend(family: str):
    """A trained `tokenizers` tokenizer: bytes (GPT-2), pieces (Llama 2) or words."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if family == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif family == "pieces":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        fallback = [f"<0x{i:02X}>" for i in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=800, special_tokens=["<unk>", *SPECIAL, *fallback], show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        # Normalisation, and a vocabulary that holds the markers as words: both can forge them.
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", *SPECIAL], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    content = json.loads(tokenizer.to_str())
    # The trainer knows no other way to take byte pieces into the vocabulary than as special tokens.
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(content))


@functools.cache
def tokenizer(family: str = "bytes", template: str = "chatml", bos: bool = False):
    """A Hugging Face tokenizer; with `bos` it puts <|begin|> first by itself."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer.from_str(backend(family).to_str())
    if bos:
        own.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", own.token_to_id("<|begin|>"))]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<|begin|>",
        eos_token="<|end_of_text|>",
        unk_token=None if family == "bytes" else "<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    made.chat_template = TEMPLATES.get(template, template)
    return made


@functools.cache
def template(family: str = "bytes", shape: str = "chatml", bos: bool = False):
    from rung.data import Template

    return Template.of(tokenizer(family, shape, bos))


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path as text."""

    def _write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return _write
