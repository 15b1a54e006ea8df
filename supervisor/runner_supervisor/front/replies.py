"""Error bodies in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol


class Reply(Protocol):
    """What the front answers by itself."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def code(self) -> str:
        """What it is, in a word."""

    def response(self, extra: Sequence[bytes] = (), *, head_only: bool = False) -> bytes:
        """The whole HTTP/1.1 response as bytes. `extra`: further header lines."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the front answers a request itself. `retry_after_s` goes into Retry-After, in whole seconds."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    @property
    def type(self) -> str:
        """OpenAI's error type for the status."""
        match self.status:
            case 401:
                return "authentication_error"
            case 403:
                return "permission_error"
            case 429:
                return "rate_limit_error"
            case status if status < 500:
                return "invalid_request_error"
            case 502 | 503 | 504:
                return "service_unavailable_error"
        return "server_error"

    def body(self) -> bytes:
        """The JSON body."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """The headers besides the framing."""
        headers = {"content-type": "application/json"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers

    def response(self, extra: Sequence[bytes] = (), *, head_only: bool = False) -> bytes:
        """The whole HTTP/1.1 response as bytes. `extra`: further header lines."""
        body = self.body()
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers().items()]
        lines.append(f"content-length: {len(body)}")
        head = b"\r\n".join(["\r\n".join(lines).encode(), *extra, b"", b""])
        return head if head_only else head + body


class RefusedError(Exception):
    """A control path answers with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


INVALID_KEY: Final = Refusal(
    401,
    "invalid_api_key",
    "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
)
WRONG_SCOPE: Final = Refusal(403, "wrong_scope", "This needs a key with the scope '{scope}'.")
WRONG_MODEL: Final = Refusal(403, "wrong_model", "This key is not for the model that is served here.")
NO_SUCH_PATH: Final = Refusal(404, "not_found", "There is no such path here.")
FOREIGN_HOST: Final = Refusal(
    421,
    "foreign_host",
    "This server does not answer to the host that the request names; its setting allowed_hosts names others.",
)
BODY_TOO_LARGE: Final = Refusal(413, "body_too_large", "The request body is larger than this server accepts.")
BUFFERS_FULL: Final = Refusal(
    503, "buffers_full", "The request bodies held here fill the memory set apart for them.", retry_after_s=5
)
DRAINING: Final = Refusal(503, "draining", "This server is shutting down. Try again shortly.", retry_after_s=5)
BUSY_CHANGING: Final = Refusal(409, "change_under_way", "Another reload or restart is under way; see the status.")
STOPPED: Final = Refusal(410, "cancelled", "An operator cancelled this request.")
"""410, as clients' libraries send again by themselves what gets 409, 429 or 5xx."""
NO_SUCH_REQUEST: Final = Refusal(
    404, "no_such_request", "No request of this id is at work; it may have ended just now."
)
TOO_MANY_WATCHERS: Final = Refusal(
    503, "too_many_watchers", "So many pages watch already; close one.", retry_after_s=5
)
ENGINE_GONE: Final = Refusal(
    502, "engine_failed", "The model server ended before it answered. Try again.", retry_after_s=1
)
NOT_HTTP: Final = Refusal(400, "bad_request", "Invalid HTTP request received.")
INTERNAL_ERROR: Final = Refusal(500, "internal_error", "The front failed on this request; its log says why.")
QUEUE_FULL: Final = Refusal(429, "queue_full", "All slots are busy and the queue is full. Try again later.")
QUEUE_TIMEOUT: Final = Refusal(503, "queue_timeout", "No slot came free in time. Try again later.")
FOREIGN_ORIGIN: Final = Refusal(
    403, "foreign_origin", "Without API keys, only pages that this machine serves may use this address."
)
TOO_SLOW: Final = Refusal(408, "request_timeout", "The request did not arrive in time.")
HEAD_TOO_LARGE: Final = Refusal(431, "head_too_large", "The request's head is larger than this server accepts.")
