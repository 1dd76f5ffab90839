"""AutoGluon's tabular predictor over a column of text, without its multimodal part, within the time.

Usage: text_autogluon.py JOB RESULT.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

SHARE = 0.8  # of the seconds, for its fit; the rest is for features and the test rows


def main() -> None:
    began = time.perf_counter()
    job = json.loads(Path(sys.argv[1]).read_text())
    import pandas as pd
    from autogluon.tabular import TabularPredictor

    def table(part: str) -> pd.DataFrame:
        return pd.DataFrame({"text": job[part]["texts"], "label": job[part]["labels"]})

    predictor = TabularPredictor(label="label", path=job["folder"], verbosity=1)
    predictor.fit(table("train"), time_limit=SHARE * job["seconds"])
    said = [str(label) for label in predictor.predict(table("test").drop(columns="label"))]
    note = f"best model {predictor.model_best}"
    kept = {"answers": said, "seconds": time.perf_counter() - began, "note": note}
    Path(sys.argv[2]).write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
