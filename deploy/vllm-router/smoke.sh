#!/usr/bin/env bash
# Two vLLMs, vllm-router before them, Quern before that; then Quern before the two vLLMs. One of them is killed.
#
#   MODEL=/srv/models/Qwen2.5-Coder-0.5B deploy/vllm-router/smoke.sh
#
# VLLM and ROUTER name the environments of vLLM and of vllm-router. With a build for CPUs each vLLM takes 1 GiB for its
# cache. ARGUMENTS goes to each vLLM.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
: "${MODEL:?Give a model\'s folder.}"
ENGINES=${XDG_DATA_HOME:-$HOME/.local/share}/quern/engines
VLLM=${VLLM:-$ENGINES/vllm} ROUTER=${ROUTER:-$ENGINES/router}
FIRST=$(free_port) SECOND=$(free_port)
export VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_HOST_IP=127.0.0.1

replica() {
    # shellcheck disable=SC2086
    start "vllm-$1" "$VLLM/bin/python" -m vllm.entrypoints.openai.api_server --model "$MODEL" --host 127.0.0.1 \
        --port "$1" --max-model-len 4096 --generation-config vllm \
        --structured-outputs-config '{"backend": "guidance"}' --scheduling-policy priority \
        --enable-prefix-caching --enable-prompt-tokens-details ${ARGUMENTS:-}
}
healthy() { curl --fail --silent --max-time 5 "http://127.0.0.1:$1/health"; }
served() { # how many requests a replica has answered
    curl --silent "http://127.0.0.1:$1/metrics" |
        awk '/^vllm:request_success_total/ { sum += $NF } END { print sum + 0 }'
}
quern() { # NAME URLS [HEALTH]: Quern before those; its address is $URL
    local port
    port=$(free_port) URL=http://127.0.0.1:$port
    printf '[engine]\nname = "remote"\n[engine.remote]\nurls = [%s]\nhealth = "%s"\n' "$2" "${3:-/health}" >"$WORK/$1.toml"
    start "$1" "$QUERN" serve --model "$MODEL" --port "$port" --data-dir "$WORK/data-$1" --config "$WORK/$1.toml"
    wait_for 120 "$1 serves" ready "$URL"
}
stays() { # one conversation: only one of the replicas has answered it, and it found what was said before
    local before=("$(served "$FIRST")" "$(served "$SECOND")") share
    share=$("$PYTHON" "$ROOT/deploy/conversation.py" "$URL")
    local first=$(($(served "$FIRST") - before[0])) second=$(($(served "$SECOND") - before[1]))
    echo "     turns at the replicas: $first and $second; of the later prompts $share was cached"
    [[ $first -eq 0 || $second -eq 0 ]]
}

replica "$FIRST"
killed=$LAST
replica "$SECOND"
wait_for 900 "the first vLLM is loaded" healthy "$FIRST"
wait_for 900 "the second vLLM is loaded" healthy "$SECOND"

ROUTED=$(free_port) METRICS=$(free_port)
start router "$ROUTER/bin/vllm-router" --host 127.0.0.1 --port "$ROUTED" --prometheus-port "$METRICS" \
    --worker-urls "http://127.0.0.1:$FIRST" "http://127.0.0.1:$SECOND" --policy consistent_hash \
    --request-id-headers x-session-id --health-check-interval-secs 5 --health-failure-threshold 2
wait_for 120 "the router serves" healthy "$ROUTED"
quern behind-router "\"http://127.0.0.1:$ROUTED\"" /readiness
grep -o "remote_servers .*" "$WORK/behind-router.log" || true
answers "$URL"
check "a conversation stays with one replica, by the router" stays
routed_url=$URL

quern two-urls "\"http://127.0.0.1:$FIRST\", \"http://127.0.0.1:$SECOND\""
answers "$URL"
check "a conversation stays with one replica, by Quern" stays

kill -KILL -- "-$killed"
check "with one replica killed, Quern's eight answers come from the other" answers "$URL"
left_out() { # whichever replica the conversations' names are for
    local number
    for number in 1 2 3 4 5 6; do PROMPT="$RANDOM and $number?" ask "$routed_url" '{"max_tokens": 4}' || return 1; done
}
wait_for 120 "the router leaves the killed one out" left_out
check "and eight answers by the router" answers "$routed_url"
verdict
