#!/usr/bin/env bash
# Climb to the cheapest method that clears a bar, tune two more models on the same frozen base, compare all
# with the base, serve them from one process and ask them.
#
#   make quickstart                     # builds the environment first, then runs this
#   bash examples/quickstart.sh         # with `rung` on the PATH
#
# The models stay (in RUNG_HOME, by default ~/.rung); running this again replaces them.
set -euo pipefail
cd "$(dirname "$0")/.."

COACH="I want you to act as a motivational coach."
SATIRE="Write a news headline."
SARCASM=wheel:evals/evals/registry/data/sarcasm/samples.jsonl
ASKED="Respond with only a 1 or 0 to signify if the user's message includes sarcasm, or not"
HEADLINE="area man wins argument with dog"
ROWS=${ROWS:-240} # of the headlines, which are thousands: enough to see the difference in minutes
REPORT=${REPORT:-build/headlines.html}

scratch=$(mktemp -d)
server=""

finish() {
    local code=$?
    trap - EXIT
    if [ -n "$server" ] && kill "$server" 2>/dev/null; then
        wait "$server" || true
    fi
    rm -rf "$scratch"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

heading() { printf '\n\033[1m== %s\033[0m\n\n' "$1"; }

heading "1 of 5: sarcasm in headlines: the cheapest method that is right in 78 of 100"
rung climb "$SARCASM" --name headlines --replace --base smollm2-135m --bar accuracy=0.78 \
    --limit 2500 --validation 0.12 --test 0.28 --report "$REPORT"
winner=$(rung board headlines --climbs --json |
    python -c 'import json, sys; print(json.load(sys.stdin)[0]["verdict"]["model"])')

heading "2 of 5: a coach, from 326 quotes, by prompt tuning"
rung tune coach --replace --base smollm2-135m --method prompt_tuning --epochs 1 \
    --data wheel:inspirational-quotes/inspirational_quotes/quotes.json \
    --user "$COACH" --assistant "{text}"

heading "3 of 5: a satirist, from $ROWS headlines, by prefix tuning"
rung tune satire --replace --base smollm2-135m --method prefix_tuning --epochs 1 \
    --data "$SARCASM" --where ideal=1 --limit "$ROWS" \
    --user "$SATIRE" --assistant "{input[1][content]}"

heading "4 of 5: before and after: the base beside each model, asked the same"
rung compare "$winner" --system "$ASKED" --prompt "$HEADLINE" --prompt "senate passes budget bill" \
    --max-tokens 8
rung compare coach satire --prompt "$COACH" --prompt "$SATIRE" --max-tokens 80

heading "5 of 5: all three behind one server, asked with the openai client"
rung serve "$winner" coach satire --port 0 >"$scratch/serve.log" 2>&1 &
server=$!
address=""
for _ in $(seq 240); do
    address=$(sed -n 's/^serving at //p' "$scratch/serve.log")
    [ -n "$address" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$scratch/serve.log" >&2; exit 1; }
    sleep 0.5
done
[ -n "$address" ] || { cat "$scratch/serve.log" >&2; echo "the server did not start" >&2; exit 1; }
echo "serving at $address"
python examples/ask.py "$address" "$winner" "$HEADLINE"
python examples/ask.py "$address" coach "$COACH"
python examples/ask.py "$address" satire "$SATIRE"
kill "$server"
wait "$server"
server=""
echo
echo "The server has stopped. The models stay, and $REPORT shows the climb. Go on with:"
echo
echo "    rung chat coach             (rung is in .venv/bin)"
echo "    rung show $winner"
echo "    rung serve $winner coach satire"
