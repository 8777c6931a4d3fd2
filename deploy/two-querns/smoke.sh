#!/usr/bin/env bash
# nginx with this folder's configuration before two Querns: streams pass piece by piece, and one of them may go.
#
#   deploy/two-querns/smoke.sh
#   STORE_URL=postgresql+psycopg://quern:…@localhost/quern MODEL=qwen2.5-coder-0.5b ENGINE=cpu deploy/two-querns/smoke.sh
#
# With STORE_URL both have that database, which should be an empty one, and what one has begun is found at the other.
# Without it each has a database of its own, and only nginx is tried. Needs nginx.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
MODEL=${MODEL:-qwen2.5-coder-0.5b} ENGINE=${ENGINE:-fake}
A=$(free_port) B=$(free_port) PORT=$(free_port) URL=http://127.0.0.1:$PORT
NGINX=$(command -v nginx || echo /usr/sbin/nginx)
DATA=${XDG_DATA_HOME:-$HOME/.local/share}/quern
[[ -n ${STORE_URL:-} ]] && export QUERN_STORE__URL=$STORE_URL

# The same file without TLS and with this machine's ports.
sed -e "s|/run/nginx.pid|$WORK/nginx.pid|; /ssl_certificate/d; /listen 80;/d; /return 301/d" \
    -e "s|listen 443 ssl http2|listen 127.0.0.1:$PORT|; s|quern-a.internal:8001|127.0.0.1:$A|" \
    -e "s|quern-b.internal:8001|127.0.0.1:$B|; s|worker_processes auto|worker_processes 1|" \
    "$ROOT/deploy/two-querns/nginx.conf" >"$WORK/nginx.conf"
check "nginx takes the configuration" "$NGINX" -q -t -e stderr -c "$WORK/nginx.conf"

quern() {
    mkdir -p "$WORK/data-$1"
    ln -s "$DATA/models" "$WORK/data-$1/models"
    start "quern-$1" env QUERN_ENGINE__THREADS=1 QUERN_SERVER__HOSTS=quern.example.com "$QUERN" serve \
        --model "$MODEL" --engine "$ENGINE" --port "$2" --data-dir "$WORK/data-$1"
}
quern a "$A"
first=$LAST
quern b "$B"
start nginx "$NGINX" -e stderr -c "$WORK/nginx.conf" -g 'daemon off;'
wait_for 120 "the first Quern serves" ready "http://127.0.0.1:$A"
wait_for 120 "the second Quern serves" ready "http://127.0.0.1:$B"
wait_for 20 "nginx passes on" ready "$URL"

status() { curl --silent --output /dev/null --write-out '%{http_code}' --header 'host: quern.example.com' "$@"; }
pieces() { # how many times an answer arrived at: one where nginx keeps it back
    "$PYTHON" - "$URL" <<'PIECES'
import json, sys
from urllib.request import Request, urlopen

body = {"messages": [{"role": "user", "content": "Count to thirty. " * 40}], "max_tokens": 120, "stream": True}
body["ignore_eos"] = True
request = Request(f"{sys.argv[1]}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
count = 0
with urlopen(request, timeout=120) as answer:
    while answer.read1(1 << 20):
        count += 1
print(count)
sys.exit(count < 10)
PIECES
}
check "a stream arrives in pieces" pieces
check "an answer by nginx" ask "$URL"
check "metrics are for machines inside" test "$(status "$URL/metrics")" = 404
check "administration too" test "$(status "$URL/v1/admin/keys")" = 404
if [[ -n ${STORE_URL:-} ]]; then
    id=$(curl --fail --silent "http://127.0.0.1:$A/v1/code/chat_stream" --data prompt=hello --data max_tokens=8 |
        sed -n 's/^conversation_id: *//p')
    check "a conversation of the one is found at the other" test "$(status "http://127.0.0.1:$B/v1/conversations/$id")" = 200
    check "and goes on there" curl --fail --silent --output /dev/null "http://127.0.0.1:$B/v1/code/chat_stream" \
        --data prompt=again --data max_tokens=8 --data "conversation_id=$id"
fi
kill -KILL -- "-$first"
well=0
for _ in 1 2 3 4 5 6 7 8; do if ask "$URL" >/dev/null; then well=$((well + 1)); fi; done
check "with the first one killed, eight answers ($well)" test "$well" -eq 8
if [[ -n ${STORE_URL:-} ]]; then
    check "the killed one's conversation is there" test "$(status "$URL/v1/conversations/$id")" = 200
fi
verdict
