"""What a request's head means: whether FastAPI answers, whose it is, and why it is refused, if so."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import httptools

from runner_supervisor.core.admission import Share
from runner_supervisor.front.gate import ANYONE, Gate
from runner_supervisor.front.message import Head
from runner_supervisor.front.replies import FOREIGN_ORIGIN, HEAD_TOO_LARGE, INVALID_KEY, Refusal

NOBODY = Share("")
CONTROL_PREFIXES = (b"/health", b"/metrics", b"/admin")
HEAD_BYTES = 64 * 1024
LINE_BYTES = 8000
"""llama-server reads no longer line (vendor/cpp-httplib/httplib.h, CPPHTTPLIB_HEADER_MAX_LENGTH: 8192)."""

REMEMBERED = 256
REMEMBERED_BYTES = 8192
HEADER_BYTES = 160
"""What Python needs for a header beside its text."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reading:
    """A head to relay, whose share of the slots it uses, and the refusal it gets instead, if any."""

    head: Head
    share: Share
    refusal: Refusal | None


class Heads:
    """Reads heads. Clients send the same ones again and again, so what was read is remembered, within bounds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._read_at = gate.version
        self._remembered: dict[tuple[object, ...], Reading | None] = {}

    @property
    def version(self) -> int:
        """Changes when what was read before may mean something else now."""
        return self._gate.version

    def read(
        self, parser: httptools.HttpRequestParser, url: bytes, headers: Headers, *, trusted: bool
    ) -> Reading | None:
        """The meaning of a head, or None: it is FastAPI's.

        Args:
            parser: stands at the head's end.
            url: the request's target.
            headers: names in lower case, without Content-Length.
            trusted: it came over the control socket, whose folder only we can enter.

        Raises:
            httptools.HttpParserInvalidURLError: the target is no URL.
        """
        if self._read_at != self._gate.version:
            self._read_at = self._gate.version
            self._remembered.clear()
        key = (parser.get_method(), url, parser.get_http_version(), trusted, *headers)
        try:
            return self._remembered[key]
        except KeyError:
            pass
        reading = self._read(parser, url, headers, trusted=trusted)
        size = len(url) + sum(len(name) + len(value) + HEADER_BYTES for name, value in headers)
        if size <= REMEMBERED_BYTES and (reading is None or reading.refusal is None):
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = reading
        return reading

    def _read(
        self, parser: httptools.HttpRequestParser, url: bytes, headers: Headers, *, trusted: bool
    ) -> Reading | None:
        target = origin_form(url)
        if is_control(target):
            return None
        http_1_0 = parser.get_http_version() == "1.0"
        share, refusal = (ANYONE, None) if trusted else self._admit(dict(headers))
        sizes = [len(url), *(len(name) + len(value) + len(b": \r\n") for name, value in headers)]
        if refusal is None and (max(sizes) > LINE_BYTES or sum(sizes) > HEAD_BYTES):
            refusal = HEAD_TOO_LARGE
        head = Head(
            parser.get_method(),
            target,
            headers,
            http_1_0=http_1_0,
            keep_alive=not http_1_0 and parser.should_keep_alive(),
            owner=None if share is ANYONE else share.key,
        )
        return Reading(head, share, refusal)

    def _admit(self, values: dict[bytes, bytes]) -> tuple[Share, Refusal | None]:
        share = self._gate.admit(values.get(b"authorization"), values.get(b"x-api-key"))
        if share is None:
            return NOBODY, INVALID_KEY
        origin = values.get(b"origin")
        if share is ANYONE and origin is not None and not is_local(origin):
            return NOBODY, FOREIGN_ORIGIN
        return share, None


def is_control(target: bytes) -> bool:
    """Whether FastAPI answers this target: /health, /metrics, /admin, and what lies below each."""
    if not target.startswith(CONTROL_PREFIXES):
        return False
    path = target.partition(b"?")[0]
    return path[: path.find(b"/", 1)] in CONTROL_PREFIXES if b"/" in path[1:] else path in CONTROL_PREFIXES


def is_local(origin: bytes) -> bool:
    """Whether an Origin header names this machine itself, and so a page that runs here."""
    try:
        host = urlsplit(origin.decode("latin-1")).hostname
        return host == "localhost" or (host is not None and ip_address(host).is_loopback)
    except ValueError:
        return False


def origin_form(target: bytes) -> bytes:
    """A request target as path and query: `http://host/path?query` becomes `/path?query` (RFC 9112, 3.2.2).

    A fragment, which no request may have, is cut off, as the engine would.
    """
    target = target.partition(b"#")[0]
    if target.startswith(b"/"):
        return target
    url = httptools.parse_url(target)
    query = b"?" + url.query if url.query else b""
    return (url.path or b"/") + query
