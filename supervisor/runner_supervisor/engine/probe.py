"""What a llama-server says of itself, asked over its socket. Never on the data path."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

TIMEOUT_S = 1.0
BRIEF_S = 0.3
"""For what is asked of an engine that is thought to hang, in seconds."""


SLOT_FIELDS = (
    "id",
    "n_ctx",
    "is_processing",
    "id_task",
    "n_prompt_tokens",
    "n_prompt_tokens_processed",
    "next_token",
)
"""What is kept of a slot's state: counts, and nothing that anybody wrote."""


class Health(StrEnum):
    """What /health says: no answer, 503 while loading, or 200 (tools/server/server-http.cpp:307-328)."""

    SILENT = "silent"
    LOADING = "loading"
    READY = "ready"


class Probe:
    """Asks one llama-server on its Unix socket. Every question has a deadline of a second.

    `refusals`: how many times in a row nobody listened when its metrics were asked for.
    """

    def __init__(self, socket: Path) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket), verify=False),  # no TLS there
            base_url="http://engine",
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        self.refusals = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def health(self) -> Health:
        """One /health answer."""
        try:
            response = await self._client.get("/health")
        except httpx.TransportError:
            return Health.SILENT
        match response.status_code:
            case 200:
                return Health.READY
            case 503:
                return Health.LOADING
        return Health.SILENT

    async def slots(self) -> int | None:
        """How many requests the engine works on at once (/props, `total_slots`), or None: it did not say."""
        try:
            return max(1, int((await self._client.get("/props")).json()["total_slots"]))
        except (httpx.TransportError, ValueError, KeyError, TypeError):
            return None

    async def has_page(self) -> bool:
        """Whether it has a chat page, built in or in the folder of `--path` (tools/server/server-http.cpp:372)."""
        try:
            response = await self._client.head("/index.html", headers={"accept-encoding": "gzip"})
        except httpx.TransportError:
            return False
        return response.status_code == httpx.codes.OK

    async def slot_states(self) -> list[dict[str, Any]] | None:
        """What each slot does (/slots, without prompts), or None: no answer.

        Not to be asked for often: it wakes a server that sleeps, and delays its notice of clients that left.
        """
        try:
            states = (await self._client.get("/slots", timeout=BRIEF_S)).json()
        except (httpx.TransportError, ValueError):
            return None
        return [{name: slot.get(name) for name in SLOT_FIELDS} for slot in states if isinstance(slot, dict)]

    async def metrics(self) -> str | None:
        """The engine's metrics as Prometheus text, or None when it does not answer in time.

        Asking resets its two rate gauges (tools/server/server-context.cpp:4677), so only the supervisor asks.
        """
        try:
            response = await self._client.get("/metrics")
        except httpx.TransportError as error:
            if _nobody_listens(error):
                self.refusals += 1
            return None
        self.refusals = 0
        return response.text if response.status_code == httpx.codes.OK else None


def _nobody_listens(error: BaseException | None) -> bool:
    """Whether a socket is gone or refuses, rather than that its backlog is full (EAGAIN)."""
    while error is not None:
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return True
        error = error.__cause__ or error.__context__
    return False
