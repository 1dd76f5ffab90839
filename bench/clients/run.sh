#!/usr/bin/env bash
# Real rounds of other people's clients against `rung serve`: chat, stream, tools, structured output, embeddings.
#   bench/clients/run.sh [CLIENT ...]     all of them by default; BASE names the model, OPENAI the client's versions
# Each client gets a temporary environment with the versions pinned here, from the package registries.
set -u
cd "$(dirname "$0")"
BASE=${BASE:-smollm2-135m}
OPENAI=${OPENAI:-2.54.0 3.57.0}
RUNG=${RUNG:-rung}
PYTHON=${PYTHON:-python3}
WORK=$(mktemp -d)

declare -A PACKAGES=(
  [langchain]="langchain-openai==1.7.4"
  [llamaindex]="llama-index-llms-openai-like==0.8.1 llama-index-embeddings-openai-like==0.4.0"
  [instructor]="instructor==1.17.0"
  [litellm]="litellm==1.110.2"
  [pydanticai]="pydantic-ai-slim[openai]==2.68.0"
  [agents]="openai-agents==0.24.0"
)
VERCEL="ai@7.0.173 @ai-sdk/openai-compatible@3.0.92 zod@4.6.7"
CLIENTS=${*:-langchain llamaindex instructor litellm pydanticai agents vercel}

"$RUNG" serve "$BASE" --port 0 --no-page >"$WORK/server.txt" 2>"$WORK/errors.txt" &
SERVER=$!
trap 'kill $SERVER 2>/dev/null; wait $SERVER 2>/dev/null; rm -rf "$WORK"' EXIT
for _ in $(seq 1200); do  # ten minutes: a busy machine loads a base slowly
  URL=$(sed -n 's|^serving at \(http://[^/]*\)/v1.*|\1|p' "$WORK/server.txt")
  [ -n "$URL" ] && break
  kill -0 $SERVER 2>/dev/null || { cat "$WORK/errors.txt"; exit 1; }
  sleep 0.5
done
[ -n "$URL" ] || { echo "the server did not start"; exit 1; }

failed=0
of_python() {  # CLIENT VERSION-OF-OPENAI
  local place="$WORK/$1-$2" bounds
  "$PYTHON" -m venv "$place"
  # A client whose bounds leave this version out keeps its own: that is the client's to say.
  if ! "$place/bin/pip" install -qq --disable-pip-version-check ${PACKAGES[$1]} "openai==$2" 2>"$place/pip.txt"; then
    bounds=$(grep -m1 -o 'openai[<>=!~][^ ;)]*' "$place/pip.txt")
    echo "$1, openai $2: not installable together (${bounds:-see pip})"
    grep -q -i "conflict" "$place/pip.txt" || { cat "$place/pip.txt"; failed=1; }
    return
  fi
  echo "$1 (${PACKAGES[$1]}), openai $2:"
  ("$place/bin/python" "${1}_chat.py" "$URL" "$MODEL") || failed=1
  rm -rf "$place"
}
of_node() {
  mkdir "$WORK/vercel" && cp vercel_chat.mjs "$WORK/vercel/"
  echo "vercel ($VERCEL):"
  (cd "$WORK/vercel" && npm install --silent --no-fund --no-audit $VERCEL >/dev/null \
    && node vercel_chat.mjs "$URL" "$MODEL") || failed=1
}

MODEL=$(curl -s "$URL/v1/models" | "$PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["data"][0]["id"])')
for client in $CLIENTS; do
  if [ "$client" = vercel ]; then of_node; else for version in $OPENAI; do of_python "$client" "$version"; done; fi
done
exit $failed
