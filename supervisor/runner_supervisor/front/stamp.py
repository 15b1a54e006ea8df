"""What all of FastAPI's answers carry: the request's id and what keeps browsers safe; calls of /admin are audited."""

from __future__ import annotations

from time import perf_counter, time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner_supervisor.front.audit import ANSWERED, OTHER, Entry
from runner_supervisor.front.routes import CONTROL
from runner_supervisor.front.visit import Desk

SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
ADMIN = CONTROL["/admin"].label


class Stamp:
    """An ASGI application around another. The protocol has left in the scope's state who asks."""

    def __init__(self, app: ASGIApp, *, desk: Desk) -> None:
        self._app = app
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = perf_counter()
        state: dict[str, Any] = scope["state"]
        lines = tuple(line.split(b": ", 1) for line in state["extra"])

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                own = {name for name, _ in headers}
                safe = (line for line in SAFE if line[0] not in own)
                message["headers"] = [*headers, (b"x-request-id", state["request_id"]), *safe, *lines]
                path = scope["route"].path if "route" in scope else OTHER
                self._desk.tally.controlled(path, message["status"])
                if scope["path"].startswith(ADMIN):
                    self._write_down(scope, path, message["status"], perf_counter() - began_s)
            await send(message)

        await self._app(scope, receive, stamped)

    def _write_down(self, scope: Scope, path: str, status: int, took_s: float) -> None:
        if self._desk.audit is None:
            return
        self._desk.ledger.write_down()  # what ended before stands before it
        state = scope["state"]
        self._desk.audit.record(
            Entry(
                time_s=time() - took_s,
                request_id=state["request_id"],
                key=state["principal"].id,
                key_name=state["principal"].name,
                address=state["address"],
                method=scope["method"],
                path=path,
                model=self._desk.model,
                status=status,
                outcome=ANSWERED,
                ms=1000 * took_s,
            )
        )
