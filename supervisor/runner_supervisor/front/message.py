"""Requests and answers as messages: what of a head is passed on, and in which form."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from runner_supervisor.front import conversations
from runner_supervisor.front.routes import Route, route_of

HOP_BY_HOP: Final = (
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"upgrade",
)  # fmt: skip
"""Headers that belong to one connection and not to the message (RFC 9110, 7.6.1)."""

NOT_FORWARDED: Final = frozenset(HOP_BY_HOP) | {
    b"authorization",
    b"content-length",
    b"expect",
    b"transfer-encoding",
    b"x-api-key",
}
"""Request headers that stay here: our keys, and framing, made anew for the collected body."""

ESCAPE: Final = re.compile(rb"%(?:u([0-9a-fA-F]{4})|([0-9a-fA-F]{2}))")

NO_BODY_MEANT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE"})
"""Methods for which a request without a body need not say so."""

JOINED_BYTES: Final = 64 * 1024
"""A body up to this length goes out in one piece with its head; copying a longer one costs more than it saves."""

CLOSE: Final = b"connection: close"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Head:
    """A parsed request head and what follows from it. Requests that repeat a head may share one.

    Args:
        method: in capitals.
        target: path and query.
        headers: names in lower case, without Content-Length, which may differ where all else is the same.
        http_1_0: whether the client speaks HTTP/1.0.
        keep_alive: whether the client's connection stays open after the answer.
        owner: the id of the key that the request comes with; None where no key is needed.

    `head_only`: its answer has no body. `plain`: its body goes on as it is. `takes_slot`: the engine works on it.
    `limited`: it counts against its key's limits; what is merely looked up does not, but reading a stream again
    occupies the engine for as long as it likes.
    """

    __slots__ = (
        "chunked", "converses", "expects_continue", "head_only", "http_1_0", "keep_alive", "limited", "lines",
        "looks_up", "method", "owner", "path", "plain", "route", "takes_slot",
    )  # fmt: skip

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        *,
        http_1_0: bool,
        keep_alive: bool,
        owner: str | None,
    ) -> None:
        values = dict(headers)
        self.method = method
        self.head_only = method == b"HEAD"
        self.path = path_of(target)
        self.route: Route = route_of(self.path)
        self.takes_slot = self.route.queued and method == b"POST"
        self.limited = method == b"POST" or self.path == conversations.STREAM_PATH
        self.http_1_0 = http_1_0
        self.keep_alive = keep_alive
        self.owner = owner
        self.chunked = b"transfer-encoding" in values
        self.expects_continue = values.get(b"expect", b"").lower() == b"100-continue"
        self.converses = bool(values.get(conversations.HEADER))
        self.looks_up = owner is not None and method == b"POST" and self.path == conversations.LOOKUP_PATH
        if owner is not None:
            headers = [
                (name, conversations.private_header(owner, value) if name == conversations.HEADER else value)
                for name, value in headers
            ]
            if self.path == conversations.STREAM_PATH and b"?" in target:
                target = conversations.private_target(owner, target)
        self.plain = not self.looks_up and self.path != conversations.STREAM_PATH
        self.lines = _forwarded(method, target, headers)

    def encode(self, body: list[bytes], length: int, more: bytes = b"") -> list[bytes]:
        """A request with this head as the engine gets it, in pieces to write: one, if the body is small.

        Args:
            body: pieces of the body.
            length: their bytes in all.
            more: header lines of this request alone, each with its end.
        """
        if not self.plain and self.owner:
            # A body where none is meant the engine would read as a form, and believe it more than the query.
            body = [conversations.private_question(self.owner, b"".join(body))] if self.looks_up else []
            length = sum(map(len, body))
        if not length and self.method in NO_BODY_MEANT:
            return [b"%b%b\r\n" % (self.lines, more)]
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self.lines, more, length)
        return [head + b"".join(body)] if length <= JOINED_BYTES else [head, *body]


def path_of(target: bytes) -> str:
    """The path of a target as llama-server will see it, whose decoder knows %u0041 too, and decodes once.

    Source: vendor/cpp-httplib/httplib.cpp, `decode_path_component`.
    """
    path = target.partition(b"?")[0]
    if b"%" in path:
        path = ESCAPE.sub(_unescape, path)
    return path.decode("latin-1")


def _unescape(escape: re.Match[bytes]) -> bytes:
    four, two = escape.groups()
    return chr(int(four, 16)).encode(errors="ignore") if four else bytes([int(two, 16)])  # no surrogates


def _forwarded(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The lines that the engine gets. Names in the Connection header stay here too."""
    dropped = NOT_FORWARDED
    for name, value in headers:
        if name == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in dropped]
    return b"".join(lines)


class Unchunk:
    """Takes chunked framing off, for HTTP/1.0 clients, which do not know it."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.on_body = write
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def __call__(self, data: bytes) -> None:
        self._parser.feed_data(data)
