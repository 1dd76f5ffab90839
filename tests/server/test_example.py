"""The example, run as its reader would."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT
from tests.server.shop import base_folder, open_shop


def test_the_example_goes_all_the_way(rung_home, tmp_path):
    served = open_shop(base_folder(tmp_path / "tiny"))
    try:
        script = ROOT / "examples" / "finetune_with_openai_client.py"
        done = subprocess.run(
            [sys.executable, str(script), "--base-url", f"{served.url}/v1", "--model", "tiny",
             "--epochs", "1"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "uploaded train.jsonl as file-" in done.stdout
        assert "Step 3/3: training loss=" in done.stdout
        assert "\ntiny: " in done.stdout and "\nft:tiny:rung:pirate:" in done.stdout
    finally:
        served.stop()
