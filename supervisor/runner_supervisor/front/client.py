"""A client's connection, as its protocol offers it to a relay."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from runner_supervisor.front.visit import Caller


class Client(Caller, Protocol):
    """One connection, on which one answer is due after the other."""

    transport: asyncio.Transport
    flow: FlowControl

    def on_response_complete(self) -> None:
        """The answer has been written: the next request may start."""

    def close_after_answer(self, *, linger: bool) -> None:
        """The answer has been written and was the last one. `linger`: the client is still sending."""


class NobodyWaits:
    """Takes the place of the event on which uvicorn wakes an ASGI application; a relay has none."""

    def set(self) -> None:
        """Wake nobody."""


NOBODY_WAITS: Final = NobodyWaits()
