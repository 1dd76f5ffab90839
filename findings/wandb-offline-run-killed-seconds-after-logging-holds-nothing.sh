#!/usr/bin/env bash
# Two seconds after 50 values were logged, an offline run's file holds none of them: a kill loses all.
#
# Version: wandb 0.31.0.
# Behaviour: `run.log` hands values to a service process, which keeps them for some seconds. Where the process
#   that logs is killed two seconds after its last value, the file stays at 7 bytes, its header. Killed after
#   thirty seconds, the file has values in it.
# A good guess: another process writes the file, so a kill of the one that trains loses a moment's values.
# Why it matters: offline runs are for machines whose jobs are preempted. What a short job has logged, or one
#   that dies soon after a slow step, is not there to sync, and nothing says so.
# Seen:
#   killed after 2 s: 7 bytes
#   killed after 30 s: more than 1000 bytes
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet wandb==0.31.0
cd "$work"

# Prints how large the file of a run is whose process is killed so many seconds after its last value.
size() {
    mkdir "runs$1"
    { WANDB_MODE=offline WANDB_SILENT=true WANDB_DIR="$work/runs$1" "$work/venv/bin/python" - "$1" <<'PY'
import os
import signal
import sys
import time

import wandb

run = wandb.init(project="kept")
for step in range(50):
    run.log({"loss": 1 / (step + 1)})
time.sleep(float(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
PY
    } >"log$1" 2>&1 || true
    sleep 2
    find "runs$1" -name '*.wandb' -printf '%s\n'
}

soon=$(size 2)
late=$(size 30)
echo "killed after 2 s: $soon bytes"
[ "$late" -gt 1000 ] && echo "killed after 30 s: more than 1000 bytes"
[ "$soon" = 7 ] && [ "$late" -gt 1000 ] || { echo "changed: $soon and $late bytes"; exit 1; }
