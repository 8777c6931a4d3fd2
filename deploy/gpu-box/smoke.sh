#!/usr/bin/env bash
# Starts Quern with vLLM (or ENGINE=transformers) on MODEL, a folder, and asks for answers.
#
#   MODEL=/srv/models/Qwen3-Coder-30B-A3B-Instruct-FP8 deploy/gpu-box/smoke.sh
#
# ENVIRONMENT names the engine's environment, if it is not the data directory's. URL=http://… asks a server that runs
# already (the service), with QUERN_API_KEY as its key, and starts none.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

if [[ -z ${URL:-} ]]; then
    ENGINE=${ENGINE:-vllm} PORT=$(free_port)
    ENVIRONMENT=${ENVIRONMENT:-${XDG_DATA_HOME:-$HOME/.local/share}/quern/engines/$ENGINE}
    URL=http://127.0.0.1:$PORT
    cat >"$WORK/quern.toml" <<TOML
[engine]
context_length = 4096
kv_tokens = 16384
[engine.$ENGINE]
command = "$ENVIRONMENT"
TOML
    start quern "$QUERN" serve --model "${MODEL:?Give a model\'s folder.}" --engine "$ENGINE" --port "$PORT" \
        --data-dir "$WORK/data" --config "$WORK/quern.toml"
    wait_for 900 "the model is loaded" ready "$URL"
fi
answers "$URL"
check "it counts what runs" grep -q '"running":0' <(ready "$URL")
verdict
