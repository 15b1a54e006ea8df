"""A child with fault flags, for faults that the real llama-server does not show on demand.

It takes llama-server's own flags for model and address, and, after them, any of:

    --exit-code N       print an error line and exit at once
    --fail-while FILE   exit with code 3 at once as long as FILE exists
    --never-ready       answer /health with 503 for ever
    --load-lines N      answer /health with 503 while it prints a line each tenth of a second, N of them
    --hang-after N      answer /metrics N times, and then no more, while /health stays at 200
    --oom-unless FLAG   say that memory ran out, and exit with code 1, unless --FLAG is given too
    --ignore-term       ignore TERM
    --answer TEXT       answer chats with TEXT (else they get 404)
    --fork              leave a grandchild in the process group that holds the log pipe; prints its pid
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

METRICS = b"llamacpp:requests_processing 0\nllamacpp:n_decode_total 1\nllamacpp:prompt_tokens_total 1\n"


class Handler(BaseHTTPRequestHandler):
    """Answers /health, /props and /metrics, and chats if it was told how; everything else is 404."""

    loading = threading.Event()
    hang_after: int | None = None
    answer: str | None = None
    asked = 0

    def do_GET(self) -> None:
        """One GET."""
        status = 503 if self.loading.is_set() else 200
        body = METRICS if self.path == "/metrics" else b'{"total_slots":4}'
        if self.path == "/metrics":
            Handler.asked += 1
        if Handler.hang_after is not None and Handler.asked > Handler.hang_after and self.path != "/health":
            threading.Event().wait()
        self.send_response(status if self.path in {"/health", "/props", "/metrics"} else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)

    def do_POST(self) -> None:
        """One chat."""
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": self.answer}}]}).encode()
        self.send_response(404 if self.answer is None else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """A Unix socket's client has no address."""
        return "unix"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def load(lines: int) -> None:
    """Load slowly, and say so."""
    pause = threading.Event()
    for number in range(lines):
        print(f"0.00.000.001 I load_tensors: {number}", flush=True)
        pause.wait(0.1)
    Handler.loading.clear()


def main() -> None:
    """Parse the flags and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--exit-code", type=int)
    parser.add_argument("--fail-while", type=Path)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--load-lines", type=int)
    parser.add_argument("--hang-after", type=int)
    parser.add_argument("--oom-unless")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--answer")
    parser.add_argument("--fork", action="store_true")
    options, others = parser.parse_known_args()
    if options.oom_unless and f"--{options.oom_unless}" not in others:
        print("0.00.000.001 E alloc_tensor_range: failed to allocate CPU buffer of size 1", flush=True)
        sys.exit(1)
    if options.exit_code is not None:
        print("0.00.000.001 E srv  load_model: the fake was told to fail", flush=True)
        sys.exit(options.exit_code)
    if options.fail_while and options.fail_while.exists():
        sys.exit(3)
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if options.fork:
        grandchild = subprocess.Popen(["sleep", "60"])
        print(f"grandchild {grandchild.pid}", flush=True)
    Handler.hang_after, Handler.answer = options.hang_after, options.answer
    if options.never_ready or options.load_lines:
        Handler.loading.set()
    if options.load_lines:
        threading.Thread(target=load, args=(options.load_lines,), daemon=True).start()
    with socketserver.ThreadingUnixStreamServer(options.host, Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
