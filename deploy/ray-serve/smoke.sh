#!/usr/bin/env bash
# Ray Serve LLM with two replicas on this machine, Quern before them.
#
#   MODEL=/srv/models/Qwen2.5-Coder-0.5B deploy/ray-serve/smoke.sh
#
# RAY is an environment with `ray[serve]` and vLLM; KIND is gpu, or cpu for a build of vLLM for CPUs. With EAGER=true
# nothing is compiled, which takes minutes on few cores.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
: "${MODEL:?Give a model\'s folder.}"
RAY=${RAY:-${XDG_DATA_HOME:-$HOME/.local/share}/quern/engines/ray} KIND=${KIND:-gpu}
PORT=$(free_port) SERVED=$(free_port) GCS=$(free_port) URL=http://127.0.0.1:$PORT
export VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0
export RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1
# A machine of few cores takes longer to start Ray's processes than Ray is ready to wait.
export RAY_worker_niceness=0 RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=300 RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S=300
export PATH="$RAY/bin:$PATH" RAY_ADDRESS=127.0.0.1:$GCS

sed -e "s|/srv/models/[^ ]*|$MODEL|; s|kind: gpu|kind: $KIND|; s|port: 8100|port: $SERVED|" \
    -e "s|max_model_len: .*|max_model_len: 4096|; /kv_cache_dtype/d" \
    -e "s|\( *\)enable_prefix_caching: true|&\n\1enforce_eager: ${EAGER:-false}|" "$ROOT/deploy/ray-serve/serve.yaml" >"$WORK/serve.yaml"
start ray "$RAY/bin/python" -m ray.scripts.scripts start --head --block --port "$GCS" --num-cpus 8 \
    --include-dashboard false --disable-usage-stats
wait_for 120 "the cluster is there" "$RAY/bin/python" -m ray.scripts.scripts status
start serve "$RAY/bin/python" -m ray.serve.scripts run "$WORK/serve.yaml"
wait_for 900 "the replicas are loaded" curl --fail --silent --max-time 5 "http://127.0.0.1:$SERVED/health"

printf '[engine]\nname = "remote"\n[engine.remote]\nurls = ["http://127.0.0.1:%s"]\n' "$SERVED" >"$WORK/quern.toml"
start quern "$QUERN" serve --model "$MODEL" --port "$PORT" --data-dir "$WORK/data" --config "$WORK/quern.toml"
wait_for 120 "Quern serves" ready "$URL"
answers "$URL"
share=$("$PYTHON" "$ROOT/deploy/conversation.py" "$URL")
echo "     of a conversation's later prompts $share was cached"
check "a conversation stays with one replica" "$PYTHON" -c "import sys; sys.exit(float('$share') < 0.5)"
verdict
