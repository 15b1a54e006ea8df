"""CORS: from which origins' pages a browser may use the API (the Fetch standard's "HTTP extensions").

Off unless origins are named. llama-server lets every page in, with credentials; its own headers stay here
(see `front.message`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

METHODS: Final = b"GET, POST, DELETE, OPTIONS"
HEADERS: Final = frozenset(
    (
        b"accept", b"anthropic-beta", b"anthropic-dangerous-direct-browser-access", b"anthropic-version",
        b"authorization", b"content-type", b"openai-organization", b"openai-project", b"x-api-key",
        b"x-conversation-id", b"x-request-id",
    )
)  # fmt: skip
"""Request headers that API clients send."""

HEADER_PREFIXES: Final = (b"x-stainless-",)
EXPOSED: Final = (
    b"retry-after, x-queue-ms, x-queue-position, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, "
    b"x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, "
    b"x-ratelimit-reset-tokens, x-request-id"
)
AGE_S: Final = 600


@dataclass(frozen=True, slots=True)
class Preflight:
    """The answer to a browser that asks what its page may do."""

    lines: tuple[bytes, ...]
    status: int = 204
    code: str = "preflight"

    def response(self, extra: Sequence[bytes] = (), *, head_only: bool = False) -> bytes:  # noqa: ARG002
        """The whole HTTP/1.1 response as bytes. `extra`: further header lines."""
        return b"\r\n".join([b"HTTP/1.1 204 No Content", *self.lines, *extra, b"", b""])


class Origins:
    """The origins whose pages are let in. `allowed`: `https://host[:port]` each, or `*`."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = "*" in allowed
        self._allowed = frozenset(each.encode() for each in allowed)

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin are let in."""
        return self._any or origin in self._allowed

    def preflight(self, method: bytes, headers: Mapping[bytes, bytes]) -> Preflight | None:
        """The answer to a browser's question before a page's request; None: this is no such question. An origin that
        is not let in gets an answer that allows nothing.
        """
        if method != b"OPTIONS" or b"origin" not in headers or b"access-control-request-method" not in headers:
            return None
        if not self.allows(headers[b"origin"]):
            return Preflight(())
        asked = [name.strip().lower() for name in headers.get(b"access-control-request-headers", b"").split(b",")]
        granted = [name for name in asked if name in HEADERS or name.startswith(HEADER_PREFIXES)]
        lines = [b"access-control-allow-methods: " + METHODS, b"access-control-max-age: %d" % AGE_S]
        if granted:
            lines.append(b"access-control-allow-headers: " + b", ".join(granted))
        return Preflight(tuple(lines))

    def answer_headers(self, origin: bytes | None) -> tuple[bytes, ...]:
        """Header lines for an answer to a page of this origin, by which its browser hands it over. A key in a header
        is no credential that a browser adds by itself, so none are allowed to be.
        """
        if self._any:
            return (b"access-control-allow-origin: *", b"access-control-expose-headers: " + EXPOSED)
        if not self._allowed:
            return ()
        if origin is None or origin not in self._allowed:
            return (b"vary: Origin",)
        return (
            b"vary: Origin",
            b"access-control-allow-origin: " + origin,
            b"access-control-expose-headers: " + EXPOSED,
        )
