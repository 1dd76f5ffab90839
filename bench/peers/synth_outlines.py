"""The peer of bench/synth.py: transformers' generate under a schema by outlines, batch by batch.

python synth_outlines.py REQUEST.json    # prints a line of JSON: tokens, seconds, texts
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import outlines
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(request["base"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(request["base"], dtype=torch.float32).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    schema = outlines.json_schema(json.dumps(request["schema"]))
    generator = outlines.Generator(outlines.from_transformers(model, tokenizer), schema)
    prompts = [
        tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
        for one in request["messages"]
    ]
    settings = {
        "max_new_tokens": request["max_tokens"], "do_sample": True, "temperature": 0.8, "top_p": 0.95,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    generator.batch(prompts[:4], **settings)  # what is prepared once is not timed on either side
    texts = []
    begun = time.perf_counter()
    for at in range(0, len(prompts), request["batch"]):
        texts += generator.batch(prompts[at : at + request["batch"]], **settings)
    seconds = time.perf_counter() - begun
    # The end of turn that a finished answer draws counts, as it does on the other side.
    tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
    print(json.dumps({"tokens": tokens, "seconds": seconds, "texts": texts}))


if __name__ == "__main__":
    main()
