"""The running supervisor, asked over its control socket."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from runner_supervisor.errors import NotRunningError, RunnerError
from runner_supervisor.layout import Layout

TIMEOUT_S = 5.0
SILENT_S = 8.0
"""An event comes every second; after so long without one the connection is as good as gone."""

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. `data`: what its JSON says."""

    name: str
    id: str
    data: Any


class Remote:
    """One running supervisor, by its state folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def status(self) -> dict[str, Any]:
        """What it answers to /admin/status.

        Raises:
            NotRunningError: none runs there.
            RunnerError: it does not answer, or with an error.
        """
        return dict(self._ask("GET", "/admin/status"))

    def stop(self) -> psutil.Process:
        """Ask it to drain and end; returns its process, to wait for."""
        process = psutil.Process(self.status()["pid"])
        self._ask("POST", "/admin/stop")
        return process

    def log_level(self, level: str | None) -> str:
        """What it logs at least; with a `level`, from now on that."""
        method, query = ("GET", "") if level is None else ("POST", f"?level={level}")
        return str(self._ask(method, f"/admin/log-level{query}")["level"])

    def change(self, what: str) -> int:
        """Begin a `reload` or a `restart`, and return its number."""
        return int(self._ask("POST", f"/admin/{what}")["number"])

    def events(self, *, last_id: str = "") -> Iterator[Event]:
        """What /admin/events says, until the supervisor ends.

        Args:
            last_id: of the last event that was had; lines of logs that came before it are left out.

        Raises:
            NotRunningError: none runs there.
            RunnerError: it does not answer, falls silent, or answers with an error.
        """
        headers = {"last-event-id": last_id} if last_id else {}
        with (
            self._connected(silent_s=SILENT_S) as client,
            client.stream("GET", "/admin/events", headers=headers) as response,
        ):
            if response.is_error:
                response.read()
            response.raise_for_status()
            yield from events_of(response.iter_bytes())

    def _ask(self, method: str, path: str) -> Any:
        with self._connected() as client:
            response = client.request(method, path)
            response.raise_for_status()
            return response.json()

    @contextmanager
    def _connected(self, *, silent_s: float = TIMEOUT_S) -> Iterator[httpx.Client]:
        """A client of the control socket, whose errors are said as ours. `silent_s`: how long it waits for a byte."""
        folder = self._layout.state_dir
        transport = httpx.HTTPTransport(uds=str(self._layout.control_socket))
        timeout = httpx.Timeout(TIMEOUT_S, read=silent_s)
        try:
            with httpx.Client(
                transport=transport, base_url="http://control", timeout=timeout, trust_env=False
            ) as client:
                yield client
        except httpx.HTTPStatusError as error:
            raise RunnerError(f"the supervisor on {folder} refuses: {_message(error.response)}") from None
        except httpx.TimeoutException:
            raise RunnerError(f"the supervisor on {folder} does not answer; see its log") from None
        except httpx.TransportError:
            if self._layout.locked:
                raise RunnerError(
                    f"the supervisor on {folder} is starting (it may be building llama-server) or ending"
                ) from None
            raise NotRunningError(
                f"no supervisor runs on {folder} (another folder? see --state-dir); "
                "start one with `runner-supervisor start`"
            ) from None


def events_of(pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events in a stream, in which each is a block of `field: value` lines (front/pages/pulse.py)."""
    rest = b""
    for piece in pieces:
        *blocks, rest = (rest + piece).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            yield Event(fields["event"], fields["id"], json.loads(fields["data"]))


def wait_until(reached: Callable[[], bool], *, limit_s: float, late: str) -> None:
    """Look until it is so.

    Raises:
        RunnerError: it was not so within `limit_s` seconds; the message is `late`.
    """
    deadline = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline:
            raise RunnerError(late)
        time.sleep(POLL_S)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process that is not our child has ended; one that nobody has reaped yet has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
