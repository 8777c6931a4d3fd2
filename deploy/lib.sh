# What the smoke tests share: bash, sourced. Everything that is started is stopped when the script ends.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
QUERN=${QUERN:-$ROOT/.venv/bin/quern}
PYTHON=${PYTHON:-$(dirname "$QUERN")/python}
WORK=$(mktemp -d "${TMPDIR:-/tmp}/quern-smoke-XXXXXX")
STARTED=() FAILED=0

finish() {
    local pid ends=$((SECONDS + 20))
    for pid in "${STARTED[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    for pid in "${STARTED[@]}"; do
        while kill -0 -- "-$pid" 2>/dev/null && ((SECONDS < ends)); do sleep 0.2; done
        kill -KILL -- "-$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    if ((FAILED)); then echo "FAIL; logs are in $WORK"; else rm -rf "$WORK"; fi
}
trap finish EXIT
trap 'FAILED=1; exit 1' INT TERM

# start NAME COMMAND…: in the background, its output in $WORK/NAME.log; its process id is $LAST.
start() {
    local name=$1
    shift
    setsid "$@" >"$WORK/$name.log" 2>&1 &
    LAST=$!
    STARTED+=("$LAST")
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds, or what was started last has ended.
wait_for() {
    local seconds=$1 what=$2 ends=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= ends)) || ! kill -0 "$LAST" 2>/dev/null; then
            FAILED=1
            echo "FAIL $what: not within $seconds s, or what was started last has ended"
            tail -n 5 "$WORK"/*.log
            exit 1
        fi
        sleep 0.5
    done
    echo "PASS $what"
}

# check WHAT COMMAND…: PASS where the command succeeds, FAIL otherwise; goes on in either case.
check() {
    local what=$1
    shift
    if "$@"; then echo "PASS $what"; else
        FAILED=1
        echo "FAIL $what"
    fi
}

# A port that is free now.
free_port() { "$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# ready URL: whether a Quern there takes turns.
ready() { curl --fail --silent --max-time 5 "$1/ready"; }

# ask URL [FIELDS]: the text of a streamed answer to $PROMPT; FIELDS are members of the request, as JSON.
ask() {
    "$PYTHON" - "$@" <<'ASK'
import json, os, sys
from urllib.request import Request, urlopen

url, fields = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
prompt = os.environ.get("PROMPT", "Write a bubble sort in Python.")
messages = [{"role": "user", "content": prompt}]
body = {"messages": messages, "max_tokens": 32, "temperature": 0, "stream": True, **fields}
key = os.environ.get("QUERN_API_KEY", "")
headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
text, whole = "", False
with urlopen(Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers), timeout=300) as answer:
    for line in answer:
        data = line.decode().removeprefix("data: ").strip()
        whole = whole or data == "[DONE]"
        if data.startswith("{"):
            chunk = json.loads(data)
            if "error" in chunk:
                sys.exit(chunk["error"]["message"])
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
print(text)
sys.exit(0 if whole else "the answer broke off")
ASK
}

# The three answers that every recipe has to give: one, one under a schema, eight at once.
answers() {
    local url=$1 schema='{"type": "object", "properties": {"lines": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["lines"], "additionalProperties": false}'
    check "an answer" ask "$url"
    local format='{"type": "json_schema", "json_schema": {"name": "lines", "schema": '"$schema"'}}'
    check "an answer that obeys a schema" bash -c 'python3 -c "import json, sys; assert 1 <= json.load(sys.stdin)[\"lines\"] <= 99"' \
        < <(ask "$url" '{"response_format": '"$format"'}')
    local pids=() pid well=0
    for _ in 1 2 3 4 5 6 7 8; do
        ask "$url" '{"temperature": 0.7}' >/dev/null &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do if wait "$pid"; then well=$((well + 1)); fi; done
    check "eight answers at once ($well)" test "$well" -eq 8
}

verdict() {
    if ((FAILED)); then exit 1; fi
    echo PASS
}
