"""A child with fault flags, for faults that the real llama-server does not show on demand.

It takes llama-server's own flags for model and address, and, after them, any of:

    --exit-code N       print an error line and exit at once
    --fail-while FILE   exit with code 3 at once as long as FILE exists
    --never-ready       answer /health with 503 for ever
    --ignore-term       ignore TERM
    --fork              leave a grandchild in the process group that holds the log pipe; prints its pid
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socketserver
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Answers /health and /props; everything else is 404."""

    never_ready = False

    def do_GET(self) -> None:
        """One GET."""
        status = 503 if self.never_ready else 200
        body = b'{"total_slots":4}'
        self.send_response(status if self.path in {"/health", "/props"} else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)

    def address_string(self) -> str:
        """A Unix socket's client has no address."""
        return "unix"

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Parse the flags and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--exit-code", type=int)
    parser.add_argument("--fail-while", type=Path)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--fork", action="store_true")
    options, _ = parser.parse_known_args()
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
    Handler.never_ready = options.never_ready
    with socketserver.ThreadingUnixStreamServer(options.host, Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
