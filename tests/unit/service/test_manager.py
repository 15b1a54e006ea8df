"""What the service manager is told, over a real datagram socket, and what it hands over."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.service.manager import FIRST_DESCRIPTOR, Manager, inherited_listener


@pytest.fixture(params=["path", "abstract"])
def door(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET, and who listens there."""
    abstract = request.param == "abstract"
    if abstract and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's")
    name = f"@runner-test-{os.getpid()}" if abstract else str(short_dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.settimeout(5)
        yield name, listener


def test_assignments_arrive_in_one_message(door: tuple[str, socket.socket]) -> None:
    name, listener = door
    assert Manager.of({"NOTIFY_SOCKET": name}, pid=1).tell("READY=1", "STATUS=ready: größer")
    assert listener.recv(4096).decode() == "READY=1\nSTATUS=ready: größer"


def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    assert Manager.of({}, pid=1) == Manager()
    assert Manager().tell("READY=1")


def test_a_manager_that_has_gone_is_logged(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not Manager(str(short_dir / "none")).tell("WATCHDOG=1")
    assert "cannot tell the service manager WATCHDOG=1" in caplog.text


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_if_it_names_us(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Manager.of(environ, pid=7).watchdog_s == watchdog_s


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "8"}])
def test_a_listener_for_somebody_else_is_left_alone(environ: dict[str, str]) -> None:
    assert inherited_listener(environ, pid=7) is None


def test_two_listeners_are_refused() -> None:
    with pytest.raises(ConfigError, match="hands over 2 sockets"):
        inherited_listener({"LISTEN_FDS": "2", "LISTEN_PID": "7"}, pid=7)


HANDED_OVER = f"""
import os, socket, sys
from runner_supervisor.errors import ConfigError
from runner_supervisor.service.manager import inherited_listener
try:
    listener = inherited_listener({{"LISTEN_FDS": "1", "LISTEN_PID": "7"}}, pid=7)
except ConfigError as error:
    sys.exit(str(error))
print(listener.getsockname()[1], os.get_inheritable({FIRST_DESCRIPTOR}))
"""


def handed_over(given: socket.socket) -> subprocess.CompletedProcess[str]:
    """What a process makes of a socket that it finds where systemd puts it."""
    saved = os.dup(FIRST_DESCRIPTOR) if _is_open(FIRST_DESCRIPTOR) else None
    try:
        os.dup2(given.fileno(), FIRST_DESCRIPTOR, inheritable=True)
        command = [sys.executable, "-c", HANDED_OVER]
        return subprocess.run(
            command, pass_fds=[FIRST_DESCRIPTOR], capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        if saved is None:
            os.close(FIRST_DESCRIPTOR)
        else:
            os.dup2(saved, FIRST_DESCRIPTOR)
            os.close(saved)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_tcp_listener_is_taken_and_not_passed_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = handed_over(listener)
        assert taken.stdout.split() == [str(listener.getsockname()[1]), "False"], taken.stderr


def test_what_is_no_tcp_listener_is_refused(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "socket"))
        listener.listen()
        assert "is no TCP listener" in handed_over(listener).stderr
