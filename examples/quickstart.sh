#!/usr/bin/env bash
# Two models on one frozen base: tune both, compare them with the base, serve and ask them.
#
#   make quickstart                     # builds the environment first, then runs this
#   bash examples/quickstart.sh         # with `rung` on the PATH
#
# The models stay (in RUNG_HOME, by default ~/.rung); running this again replaces them.
set -euo pipefail
cd "$(dirname "$0")/.."

COACH="I want you to act as a motivational coach."
SATIRE="Write a news headline."
ROWS=${ROWS:-240} # of the headlines, which are thousands: enough to see the difference in minutes

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

heading "1 of 4: a coach, from 326 quotes, by prompt tuning"
rung tune coach --replace --base smollm2-135m --method prompt_tuning \
    --data wheel:inspirational-quotes/inspirational_quotes/quotes.json \
    --user "$COACH" --assistant "{text}"

heading "2 of 4: a satirist, from $ROWS headlines, by prefix tuning"
rung tune satire --replace --base smollm2-135m --method prefix_tuning \
    --data wheel:evals/evals/registry/data/sarcasm/samples.jsonl --where ideal=1 --limit "$ROWS" \
    --user "$SATIRE" --assistant "{input[1][content]}"

heading "3 of 4: before and after, in one batch"
rung compare coach satire --prompt "$COACH" --prompt "$SATIRE" --max-tokens 80

heading "4 of 4: both behind one server, asked with the openai client"
rung serve coach satire --port 0 >"$scratch/serve.log" 2>&1 &
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
python examples/ask.py "$address" coach "$COACH"
python examples/ask.py "$address" satire "$SATIRE"
kill "$server"
wait "$server"
server=""
echo
echo "The server has stopped. The models stay. Go on with:"
echo
echo "    rung chat coach             (rung is in .venv/bin)"
echo "    rung show satire"
echo "    rung serve coach satire"
