"""One checkout's side of the measurement `features` of bench/before.py.

    python bench/features_pooled.py JOB RESULT      # with the checkout first on PYTHONPATH

The job names a base and rows of token ids. The result is seconds: of `fit`, features of all rows at
every boundary at once, as a linear probe is fitted, and of `ask`, one row at a time at one layer, as it
answers requests. Each is the shorter of two runs.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    import torch

    from rung import bases
    from rung.forward.bank import Bank
    from rung.forward.features import Frame, pooled

    job = json.loads(Path(sys.argv[1]).read_text())
    rows = [tuple(ids) for ids in job["rows"]]
    bank = Bank(bases.load(bases.resolve(job["base"])).model)
    count, frame = bank.config.num_hidden_layers, Frame.of(rows)

    def fit() -> None:
        pooled(bank, rows, range(count + 1), frame)

    def ask() -> None:
        for row in rows[: job["asked"]]:
            pooled(bank, [row], [count // 2], frame)

    def seconds(work) -> float:
        found = []
        for _ in range(2):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
        return min(found)

    pooled(bank, rows[:2], [count // 2], frame)  # what a base does once
    found = {"ask": seconds(ask), "fit": seconds(fit), "threads": torch.get_num_threads()}
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
