"""A listener that a service manager hands over: its address counts, whatever the settings say."""

from __future__ import annotations

from pathlib import Path

import httpx
from tests.e2e.conftest import PYTHON, Supervisor

HAND_OVER = f"""#!{PYTHON}
import os, socket, sys
listener = socket.create_server(("0.0.0.0", 0))
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_public_listener_needs_a_key_though_the_settings_name_a_loopback_host(
    engine_build: Path, short_dir: Path
) -> None:
    assert engine_build.exists()
    hand_over = short_dir / "hand-over"
    hand_over.write_text(HAND_OVER)
    hand_over.chmod(0o755)
    with Supervisor(short_dir / "state", "--host", "127.0.0.1", python=hand_over) as service:
        service.wait_ready()
        assert "listening on what the service manager handed over: 0.0.0.0:" in service.log
        key = service.banner("API key").split()[0]
        assert httpx.get(f"{service.url}/v1/models").status_code == 401
        assert httpx.get(f"{service.url}/v1/models", headers={"x-api-key": key}).status_code == 200
        assert service.run("reload") == "reload done: the engine goes on as it is"
