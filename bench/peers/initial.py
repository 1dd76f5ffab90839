"""Write the adapter that both sides start from, in PEFT's layout. Usage: initial.py JOB.

The job names the method and PEFT's settings for it; the folder is the job's `adapter`.
"""

from __future__ import annotations

import job as jobs
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

CONFIGS = {"lora": LoraConfig, "prompt_tuning": PromptTuningConfig}


def main() -> None:
    job = jobs.read()
    torch.manual_seed(job["seed"])
    settings = dict(job["method_settings"])
    if job["method"] == "prompt_tuning":
        settings["tokenizer_name_or_path"] = job["base"]
    config = CONFIGS[job["method"]](task_type="CAUSAL_LM", **settings)
    get_peft_model(jobs.load_base(job), config).save_pretrained(job["adapter"])


if __name__ == "__main__":
    main()
