"""Requests and answers as messages: what of a head is passed on, and in which form."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import httptools

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"upgrade",
    }
)  # fmt: skip
"""Headers that belong to one connection and not to the message (RFC 9110, 7.6.1)."""

NOT_FORWARDED = HOP_BY_HOP | {
    b"authorization",
    b"content-length",
    b"expect",
    b"transfer-encoding",
    b"x-api-key",
    b"x-conversation-id",
}
"""Request headers that stay here: our keys, framing (made anew for the collected body), and
X-Conversation-Id, whose streams llama-server shows to any caller that guesses the id."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FRAMING = frozenset({b"transfer-encoding"})


class Request:
    """A parsed request head, reduced to what is forwarded."""

    __slots__ = ("expects_continue", "has_body", "headers", "http_1_0", "length", "method", "path", "target")

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], *, http_1_0: bool) -> None:
        self.method = method
        self.target = target
        self.path = unquote(target.partition(b"?")[0].decode("latin-1"))
        self.http_1_0 = http_1_0
        self.headers = headers.copy()  # the parser appends a chunked body's trailers to its own list
        self.length = 0
        self.has_body = False
        self.expects_continue = False
        for name, value in headers:
            if name == b"content-length":
                self.length = int(value)
                self.has_body = self.length > 0
            elif name == b"transfer-encoding":
                self.has_body = True
            elif name == b"expect":
                self.expects_continue = value.lower() == b"100-continue"

    def encode(self, body: bytes) -> bytes:
        """The request as the engine gets it. Names in the Connection header stay here too."""
        dropped = NOT_FORWARDED
        for name, value in self.headers:
            if name == b"connection":
                dropped |= {token.strip().lower() for token in value.split(b",")}
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in dropped]
        if body or self.method not in {b"GET", b"HEAD", b"OPTIONS", b"DELETE"}:
            lines.append(b"content-length: %d" % len(body))
        lines += [b"", body]
        return b"\r\n".join(lines)


def client_head(head: bytes, extra: list[bytes], *, drop: frozenset[bytes] = frozenset()) -> bytes:
    """An answer's head as the client gets it: the engine's lines, but for those of its own connection.

    Args:
        head: status line and headers, with the blank line that ends them.
        extra: further header lines.
        drop: names of further headers to leave out, in lower case.
    """
    dropped = HOP_BY_HOP | drop if drop else HOP_BY_HOP
    kept = [line for line in head[:-4].split(b"\r\n") if line.partition(b":")[0].lower() not in dropped]
    return b"\r\n".join([*kept, *extra, b"", b""])


def is_chunked(head: bytes) -> bool:
    """Whether an answer's body comes in chunks."""
    return b"\r\ntransfer-encoding: chunked\r\n" in head.lower()


class Unchunk:
    """Takes chunked framing off, for HTTP/1.0 clients, which do not know it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.on_body = write
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def __call__(self, data: bytes) -> None:
        self._parser.feed_data(data)
