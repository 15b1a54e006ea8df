"""The service under a real systemd, with the real llama-server."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import BUILD_TIMEOUT_S, eventually
from tests.e2e.conftest import COMMAND as E2E_COMMAND
from tests.system.machine import BUILDS, CHECKOUT, COMMAND, Machine, machine, why_not

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}"),
    pytest.mark.timeout(BUILD_TIMEOUT_S),
]

SERVICE, SOCKET = "runner-supervisor.service", "runner-supervisor.socket"
KEY = "a-key-of-the-test"
SETTINGS = "/etc/runner-supervisor/settings.toml"
PATIENT = 'drain_timeout_s = 600\nengine_args = ["--threads", "1"]\n'
"""For a machine that is busy with other things: threads that wait for each other there wait long."""

SOON_S = 180.0
"""A deadline for what takes seconds on a machine that has nothing else to do."""

CONNECTIONS = 200
BOX = ("/etc", "/opt", "/usr", "/var/cache", "/var/lib", "/run/systemd/system")


class Service:
    """The installed service, as its manager and its clients see it."""

    def __init__(self, on: Machine, port: int) -> None:
        self.on = on
        self.port = port

    def show(self, name: str) -> str:
        """One of the service's properties."""
        return self.on.run("systemctl", "show", "--property", name, "--value", SERVICE)

    @property
    def pid(self) -> str:
        """The supervisor's process id."""
        return self.show("MainPID")

    @property
    def engine(self) -> str:
        """llama-server's process id, "" for none."""
        return self.on.try_("pgrep", "--exact", "llama-server").stdout.strip()

    def journal(self, *options: str) -> str:
        """What it has logged."""
        return self.on.run("journalctl", "--no-pager", "--unit", SERVICE, *options)

    def wait_ready(self, *, after: str = "") -> None:
        """Wait until it says that it is ready, under another process id than `after`."""

        def sight() -> tuple[str, bool, str]:
            return self.show("ActiveState"), self.pid != after, self.show("StatusText")

        try:
            eventually(sight, ("active", True, "ready: demo").__eq__, timeout_s=SOON_S, every_s=0.2)
        except BaseException:
            print(self.journal())
            raise

    def chat(self) -> httpx.Response:
        """A chat, by the key that was handed over."""
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return httpx.post(url, json=body, headers={"x-api-key": KEY}, timeout=SOON_S)


def free_port() -> int:
    """A TCP port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine on which nothing is installed yet, but llama-server is built."""
    build = [*E2E_COMMAND, "build", "--reuse", "--print-manifest"]
    manifest = subprocess.run(build, stdout=subprocess.PIPE, text=True, check=True, timeout=BUILD_TIMEOUT_S).stdout
    built = Path(manifest.strip()).parent
    with machine(tmp_path_factory.mktemp("machine"), builds=built.parent) as on:
        cache = "/var/cache/runner-supervisor"
        on.run("mkdir", "-p", f"{cache}/builds")
        on.run("cp", "--recursive", BUILDS / built.name, f"{cache}/builds")
        on.write(f"{cache}/current.json", json.dumps({"key": built.name}))
        yield on


@pytest.fixture(scope="module")
def files_before(booted: Machine) -> set[str]:
    """What was there before anything was installed."""
    return files(booted)


def files(on: Machine) -> set[str]:
    """What there is but for what belongs to neither us nor the test."""
    return set(on.run("find", *BOX, "-xdev").splitlines())


@pytest.fixture(scope="module")
def service(booted: Machine, files_before: set[str]) -> Service:
    """The service, installed and started as an administrator would."""
    assert files_before
    booted.write(SETTINGS, PATIENT)
    booted.write("/etc/runner-supervisor/keys", f"{KEY}\n", mode="600")
    port = free_port()
    booted.run(
        COMMAND, "service", "install", "--system", "--now", "--port", str(port), "--config", SETTINGS,
        "--api-keys-file", "/etc/runner-supervisor/keys",
    )  # fmt: skip
    return Service(booted, port)


def test_the_units_pass_verification(service: Service) -> None:
    unit = f"/etc/systemd/system/{SERVICE}"
    checked = service.on.try_("systemd-analyze", "verify", unit)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("gpu", [False, True])
def test_exposure_is_at_most_2(booted: Machine, gpu: bool) -> None:
    folder = f"/run/{'gpu' if gpu else 'cpu'}"
    booted.run("cp", "--recursive", CHECKOUT / "deploy" / "systemd", folder)
    if not gpu:
        booted.run("rm", "--recursive", f"{folder}/{SERVICE}.d")
    booted.run("systemd-analyze", "security", "--offline=true", "--threshold=20", f"{folder}/{SERVICE}")


def test_install_starts_a_service_that_says_when_it_is_ready(service: Service) -> None:
    service.wait_ready()
    assert service.on.run("stat", "--format=%U", f"/proc/{service.pid}") == "runner-supervisor"
    assert service.chat().json()["choices"]
    assert httpx.post(f"http://127.0.0.1:{service.port}/v1/completions", json={}).status_code == 401


def test_the_journal_has_priorities_and_fields_and_no_second_time(service: Service) -> None:
    service.wait_ready()
    entries = [json.loads(line) for line in service.journal("--output=json").splitlines()]
    ready = next(entry for entry in entries if str(entry["MESSAGE"]).endswith("-> ready"))
    assert ready["MESSAGE"].startswith("engine 1")
    assert (ready["PRIORITY"], ready["LOGGER"]) == ("6", "runner_supervisor.engine.supervisor")


def test_a_key_can_be_made_as_the_user_it_runs_as(service: Service) -> None:
    service.wait_ready()
    command = (COMMAND, "keys", "create", "--name", "ci", "--state-dir", "/var/lib/runner-supervisor")
    key = service.on.run("runuser", "-u", "runner-supervisor", "--", *command)
    url = f"http://127.0.0.1:{service.port}/v1/models"
    eventually(lambda: httpx.get(url, headers={"x-api-key": key}).status_code, (200).__eq__, timeout_s=SOON_S)


def test_kill_of_the_engine_is_healed_within(service: Service) -> None:
    service.wait_ready()
    pid, engine = service.pid, service.engine
    service.on.run("kill", "-KILL", engine)
    eventually(lambda: service.engine, lambda now: now not in {"", engine}, timeout_s=SOON_S)
    service.wait_ready()
    assert service.chat().status_code == 200
    assert (service.pid, service.show("NRestarts")) == (pid, "0")
    assert "signal 9" in service.journal("--priority=warning")


def test_kill_of_the_supervisor_is_healed_by_systemd(service: Service) -> None:
    service.wait_ready()
    pid, engine = service.pid, service.engine
    service.on.run("kill", "-KILL", pid)
    assert service.chat().status_code == 200  # it waits at the socket meanwhile
    service.wait_ready(after=pid)
    assert service.engine not in {"", engine}
    assert service.show("NRestarts") == "1"


def test_a_hang_is_caught_by_the_watchdog(service: Service) -> None:
    service.wait_ready()
    pid, before = service.pid, int(service.show("NRestarts"))
    service.on.run("kill", "-STOP", pid)
    eventually(lambda: service.pid, lambda now: now not in {"0", pid}, timeout_s=SOON_S)
    service.wait_ready(after=pid)
    assert int(service.show("NRestarts")) == before + 1
    said = service.journal()
    assert "Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said  # and where it hung


def test_reload_takes_a_new_engine_and_waits_for_it(service: Service) -> None:
    service.wait_ready()
    pid, engine = service.pid, service.engine
    service.on.write(SETTINGS, PATIENT.replace('"1"', '"1", "--ctx-size", "4096"'))
    service.on.run("systemctl", "reload", SERVICE)
    assert service.engine not in {"", engine}
    assert service.pid == pid
    assert service.chat().status_code == 200


def test_a_reload_that_comes_to_nothing_fails_and_changes_nothing(service: Service) -> None:
    service.wait_ready()
    pid, engine = service.pid, service.engine
    service.on.write(SETTINGS, "no_such_setting = 1\n")
    assert service.on.try_("systemctl", "reload", SERVICE).returncode != 0
    assert "unknown setting no_such_setting" in service.journal()
    service.on.write(SETTINGS, PATIENT)
    assert (service.pid, service.engine) == (pid, engine)
    assert service.chat().status_code == 200


def test_200_connections_wait_while_it_restarts_and_a_stream_ends_as_it_should(service: Service) -> None:
    """Also with no network of its own: clients come through the socket that systemd holds."""
    service.wait_ready()
    service.on.write(f"/etc/systemd/system/{SERVICE}.d/offline.conf", "[Service]\nPrivateNetwork=yes\n")
    service.on.run("systemctl", "daemon-reload")
    pid = service.pid
    body = {"prompt": "The sea", "max_tokens": 6_000, "stream": True, "ignore_eos": True}
    url = f"http://127.0.0.1:{service.port}/v1/completions"
    waiting: list[socket.socket] = []
    with httpx.stream("POST", url, json=body, headers={"x-api-key": KEY}, timeout=SOON_S) as stream:
        data = stream.iter_raw()
        received = next(data)  # and no more for now: it cannot end before the rest is read
        restarting = service.on.begin("systemctl", "restart", SERVICE)
        eventually(lambda: service.show("StatusText"), lambda said: said.startswith("stopping"), timeout_s=SOON_S)
        waiting += [ask(service.port) for _ in range(CONNECTIONS // 2)]
        received += b"".join(data)
    eventually(lambda: service.pid, lambda now: now != pid, timeout_s=SOON_S)
    waiting += [ask(service.port) for _ in range(CONNECTIONS - len(waiting))]
    assert restarting.wait(SOON_S) == 0
    answers = [answer(connection) for connection in waiting]
    assert received.endswith(b"data: [DONE]\n\n")
    assert answers == [b"HTTP/1.1 200 OK"] * CONNECTIONS
    assert service.chat().status_code == 200
    networks = {service.on.run("readlink", f"/proc/{pid}/ns/net") for pid in ("1", service.pid)}
    assert len(networks) == 2


def ask(port: int) -> socket.socket:
    """Connect and ask for a token."""
    body = b'{"prompt":"The sea","max_tokens":1}'
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=SOON_S)
    connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    return connection


def answer(connection: socket.socket) -> bytes:
    """The first line of the answer."""
    with connection, connection.makefile("rb") as file:
        return file.readline().strip()


def test_stop_ends_it_all(service: Service) -> None:
    service.wait_ready()
    service.on.run("systemctl", "stop", SOCKET, SERVICE)
    assert (service.show("Result"), service.show("ExecMainStatus"), service.engine) == ("success", "0", "")
    with pytest.raises(ConnectionRefusedError):
        ask(service.port)


def test_a_configuration_that_cannot_work_is_not_tried_again(service: Service) -> None:
    service.on.run("systemctl", "stop", SOCKET, SERVICE)
    service.on.write(SETTINGS, 'model = "/srv/none.gguf"\n')
    assert service.on.try_("systemctl", "start", SERVICE).returncode != 0
    assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("78", "0")
    assert service.show("ActiveState") == "failed"


def test_uninstall_leaves_nothing_but_the_state(service: Service, files_before: set[str]) -> None:
    service.on.run("rm", "-rf", f"/etc/systemd/system/{SERVICE}.d", Path(SETTINGS).parent)  # the test's own
    service.on.run(COMMAND, "service", "uninstall", "--system")
    left = {path for path in files(service.on) - files_before if not path.startswith("/var/lib/runner-supervisor")}
    assert {
        path for path in left if not Path(path).name.startswith(("passwd", "group", "shadow", "gshadow", ".pwd"))
    } == set()
    assert "keys.sqlite" in service.on.run("ls", "/var/lib/runner-supervisor")
    assert service.on.try_("systemctl", "cat", SERVICE).returncode != 0
    again = service.on.try_(COMMAND, "service", "uninstall", "--system")
    assert (again.returncode, "no service is installed" in again.stderr) == (1, True)
