#!/usr/bin/env bash
# Call a running `sensenova serve` with Simon Willison's llm (0.36 or later): pip install llm
#
#   sensenova serve --port 8642
#   bash benchmarks/serve_clients/llm_calls.sh http://127.0.0.1:8642 PICTURE [MODEL]
#
# It lists the models, asks about a picture with and without streaming, and holds a chat of three turns.
# It fails if an answer is empty or if anything appears on stderr.
set -euo pipefail
url=${1:?name the address of the server}/v1
picture=${2:?name a picture file}
model=${3:-demo}
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

call() {
  echo "\$ llm openai endpoint URL $*"
  answer=$(llm openai endpoint "$url" --key none "$@" 2> "$errors") || { cat "$errors" >&2; exit 1; }
  echo "$answer"
  if [ -z "$answer" ] || [ -s "$errors" ]; then
    echo "empty answer, or on stderr: $(cat "$errors")" >&2
    exit 1
  fi
}

call --models
call -m "$model" -a "$picture" -o max_tokens 24 "What is in the picture?"
call -m "$model" -a "$picture" -o max_tokens 24 --no-stream "What is in the picture?"
call -m "$model" -o max_tokens 24 -o temperature 0 -s "Be brief." "What is a cat?"
printf 'What is a cat?\nAnd a dog?\nexit\n' | call -m "$model" -o max_tokens 16 --chat
