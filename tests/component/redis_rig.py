"""A real redis-server on a Unix socket, which can be killed, stopped and begun again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotThereError

DEADLINE_S = 10.0


class RedisServer:
    """One server, in memory only. It is started at once, and `close` ends it."""

    def __init__(self, folder: Path, *, password: str = "") -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{f':{password}@' if password else ''}{self.socket}"
        self._arguments = ["--requirepass", password] if password else []
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it, with an empty memory, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program, "these tests need redis-server (apt-get install redis-server)"
        options = [
            "--port",
            "0",
            "--unixsocket",
            self.socket,
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            self._folder,
        ]
        log = (self._folder / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [program, *map(str, options), *self._arguments], stdout=log, stderr=log, env={"LC_ALL": "C"}
            )
        deadline = time.monotonic() + DEADLINE_S
        with Redis.from_url(self.url) as client:
            while not _answers(client):
                assert time.monotonic() < deadline, "redis-server does not answer; see redis.log"
                time.sleep(0.01)

    def do(self, *command: str | bytes | float) -> object:
        """Run one command."""
        with Redis.from_url(self.url) as client:
            return client.execute_command(*command)

    def records(self) -> list[str]:
        """The names of all records."""
        with Redis.from_url(self.url) as client:
            return sorted(name.decode() for name in client.scan_iter("*"))

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Have it stand still: it is there and says nothing."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Go on after `stop`."""
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process.poll() is None:
            self.kill()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except NotThereError:
        return False
