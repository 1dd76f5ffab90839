#!/usr/bin/env bash
# After one local `ray.init()`, the same user's next `ray start --head` takes no client any more: they time out.
#
# Version: ray 2.60.0.
# Behaviour: a local `ray.init()` writes a token into ~/.ray. `ray start --head` looks whether there is one, and if
#   so has the cluster ask for it. A client on the same machine, by the same user, reads that token only where
#   RAY_AUTH_MODE says so; without, it sends none, waits for half a minute and reports a connection timeout.
# A good guess: `ray start --head` and a client's `ray.init("ray://...")` do the same whatever was run before; or a
#   client that sends no token is told that one is missing.
# Why it matters: the commands of a cluster that worked yesterday fail after somebody tried something locally, and
#   the message points at ports and firewalls.
# Seen:
#   before a local run: connected
#   after a local run: ray client connection timeout
#   after it, with RAY_AUTH_MODE=token: connected
set -euo pipefail
work=$(mktemp -d)
export HOME="$work" RAY_USAGE_STATS_ENABLED=0
unset RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH RAY_ADDRESS
trap 'ends; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "ray[client]==2.60.0"
cd "$work"

head=
begins() {
    setsid "$work/venv/bin/ray" start --head --port=6390 --ray-client-server-port=10001 --num-cpus=1 --block \
        --include-dashboard=false --object-store-memory=100000000 --disable-usage-stats >start.txt 2>&1 &
    head=$!
    until grep -q "block forever" start.txt; do sleep 1; done
    sleep 3
}

ends() {
    [ -z "$head" ] || kill -TERM -- "-$head" 2>/dev/null || true
    wait || true
    head=
    for _ in $(seq 60); do
        (: </dev/tcp/127.0.0.1/6390) 2>/dev/null || break
        sleep 0.5
    done
}

# Prints how a client fares, the environment's settings given before it.
client() {
    env "$@" timeout 120 "$work/venv/bin/python" - 2>/dev/null <<'PY'
import ray

try:
    ray.init("ray://127.0.0.1:10001")
    print("connected" if ray.is_initialized() else "not connected")
except ConnectionError as fault:
    print(fault)
PY
}

begins
before=$(client)
ends
"$work/venv/bin/python" -c 'import ray; ray.init("local", num_cpus=1, include_dashboard=False); ray.shutdown()' >local.txt 2>&1 || { cat local.txt; exit 1; }
begins
after=$(client)
told=$(client RAY_AUTH_MODE=token)
echo "before a local run: $before"
echo "after a local run: $after"
echo "after it, with RAY_AUTH_MODE=token: $told"
[ "$before|$after|$told" = "connected|ray client connection timeout|connected" ] || { echo "changed"; exit 1; }
