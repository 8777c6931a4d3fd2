"""A program that is started as vLLM is, and behaves as the file `behaviour` beside the model says.

It writes lines as vLLM does, then answers on its socket, or ends. It has a child, as vLLM has.
"""

import http.server
import json
import os
import socketserver
import subprocess
import sys
from pathlib import Path

LOADING = """\
(APIServer pid=7) INFO 11-28 16:50:01 [utils.py:299] non-default args: {}
(EngineCore pid=8) INFO 11-28 16:50:09 [core.py:101] Initializing a V1 LLM engine (v0.32.0) with config: model='/m'
(EngineCore pid=8) INFO 11-28 16:50:12 [cpu_model_runner.py:64] Starting to load model /m...
(EngineCore pid=8) \rLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00,  2.02it/s]
(APIServer pid=7) WARNING 11-28 16:50:20 [api_server.py:1] A warning.
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        bodies = {
            "/health": b"",
            "/v1/models": json.dumps({"data": [{"id": "small", "max_model_len": 512}]}).encode(),
            "/metrics": b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n',
        }
        body = bodies[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def address_string(self) -> str:
        return ""


def main() -> None:
    arguments = sys.argv[1:]
    model = Path(arguments[1] if arguments[0] == "serve" else arguments[arguments.index("--model") + 1])
    told = json.loads((model / "behaviour").read_text())
    sys.stderr.write(LOADING)
    sys.stderr.flush()
    for line in told.get("lines", ()):
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    if "exit" in told:
        sys.exit(told["exit"])
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (model / "pids").write_text(json.dumps([os.getpid(), helper.pid]))
    with socketserver.UnixStreamServer(arguments[arguments.index("--uds") + 1], Handler) as server:
        server.serve_forever()


main()
