"""Requests and answers as messages: what of a head is passed on, and in which form."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

import httptools

from runner_supervisor.front.routes import Route, route_of

HOP_BY_HOP = (
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"upgrade",
)  # fmt: skip
"""Headers that belong to one connection and not to the message (RFC 9110, 7.6.1)."""

NOT_FORWARDED = frozenset(HOP_BY_HOP) | {
    b"authorization",
    b"content-length",
    b"expect",
    b"transfer-encoding",
    b"x-api-key",
    b"x-conversation-id",
}
"""Request headers that stay here: our keys, framing (made anew for the collected body), and
X-Conversation-Id, whose streams llama-server shows to any caller that guesses the id."""

HOP_BY_HOP_LINE = re.compile(rb"\r\n(?:" + b"|".join(HOP_BY_HOP) + rb"):[^\r\n]*", re.IGNORECASE)
FRAMING_LINE = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*", re.IGNORECASE)
CHUNKED_LINE = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)

NO_BODY_MEANT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})
"""Methods for which a request without a body need not say so."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Head:
    """A parsed request head and what follows from it. Requests that repeat a head may share one.

    Args:
        method: in capitals.
        target: path and query.
        headers: names in lower case, without Content-Length, which may differ where all else is the same.
        http_1_0: whether the client speaks HTTP/1.0.
        keep_alive: whether the client's connection stays open after the answer.
    """

    __slots__ = (
        "api_key", "authorization", "chunked", "expects_continue", "http_1_0", "keep_alive", "lines", "method",
        "origin", "path", "route",
    )  # fmt: skip

    def __init__(
        self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], *, http_1_0: bool, keep_alive: bool
    ) -> None:
        values = dict(headers)
        self.method = method
        self.path = unquote(target.partition(b"?")[0].decode("latin-1"))
        self.route: Route = route_of(self.path)
        self.http_1_0 = http_1_0
        self.keep_alive = keep_alive
        self.chunked = b"transfer-encoding" in values
        self.expects_continue = values.get(b"expect", b"").lower() == b"100-continue"
        self.authorization = values.get(b"authorization")
        self.api_key = values.get(b"x-api-key")
        self.origin = values.get(b"origin")
        self.lines = _forwarded(method, target, headers)

    def encode(self, body: bytes) -> bytes:
        """A request with this head as the engine gets it."""
        if body or self.method not in NO_BODY_MEANT:
            return b"%bcontent-length: %d\r\n\r\n%b" % (self.lines, len(body), body)
        return self.lines + b"\r\n"


def _forwarded(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The lines that the engine gets. Names in the Connection header stay here too."""
    dropped = NOT_FORWARDED
    for name, value in headers:
        if name == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    return b"".join(lines)


def client_head(head: bytes, extra: list[bytes], *, chunked: bool = True) -> bytes:
    """An answer's head as the client gets it: the engine's lines, but for those of its own connection.

    Args:
        head: status line and headers, with the blank line that ends them.
        extra: further header lines.
        chunked: whether the body's chunked framing stays.
    """
    head = HOP_BY_HOP_LINE.sub(b"", head)
    if not chunked:
        head = FRAMING_LINE.sub(b"", head)
    if extra:
        return b"\r\n".join([head[:-4], *extra, b"", b""])
    return head


def is_chunked(head: bytes) -> bool:
    """Whether an answer's body comes in chunks."""
    return CHUNKED_LINE.search(head) is not None


class Unchunk:
    """Takes chunked framing off, for HTTP/1.0 clients, which do not know it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.on_body = write
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def __call__(self, data: bytes) -> None:
        self._parser.feed_data(data)
