"""What a request's head means: whether FastAPI answers, whose it is, and why it is refused, if so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from runner_supervisor.core.access import Principal
from runner_supervisor.front.gate import NOBODY, OPERATOR, WITHOUT_KEY, Gate, Judgement, Request
from runner_supervisor.front.message import Head, path_of
from runner_supervisor.front.refrain import Refrain, refrain_in
from runner_supervisor.front.replies import HEAD_TOO_LARGE, Reply
from runner_supervisor.front.routes import CONTROL, Route, route_of

HEAD_BYTES: Final = 64 * 1024
LINE_BYTES: Final = 8000
"""llama-server reads no longer line (vendor/cpp-httplib/httplib.h, CPPHTTPLIB_HEADER_MAX_LENGTH: 8192)."""

REMEMBERED: Final = 256
REMEMBERED_BYTES: Final = 8192
HEADER_BYTES: Final = 160
"""What Python needs for a header beside its text."""

UNFIT_TO_RECUR: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})
"""Headers after which a request's body has no length, has to be asked for, or is none of HTTP's."""

ORIGIN: Final = b"origin"
FORWARDED_FOR: Final = b"x-forwarded-for"

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Reading:
    """A head: who asks, and what is answered instead of relaying it, if anything is.

    `control`: FastAPI answers it. `guess`: it came with a key that there is not. `extra`: header lines for the
    answer. `forwarded`: the values of X-Forwarded-For. `recurs`: the same bytes mean the same when they come again on
    the same connection, and nothing need be answered before the body is here.
    """

    head: Head
    principal: Principal
    reply: Reply | None
    control: bool
    guess: bool
    extra: tuple[bytes, ...]
    forwarded: tuple[bytes, ...]
    recurs: bool


class Heads:
    """Reads heads. Clients send the same ones again and again, so what was read is remembered, within bounds."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._read_at = gate.version
        self._remembered: dict[tuple[object, ...], Reading] = {}
        self._recurring: dict[tuple[bool, bytes, bytes], tuple[Refrain, Reading]] = {}
        self._latest: tuple[bool, Refrain, Reading] | None = None

    @property
    def version(self) -> int:
        """Grows when what was read before may mean something else now."""
        return self._gate.version

    def read(self, parser: httptools.HttpRequestParser, url: bytes, headers: Headers, *, trusted: bool) -> Reading:
        """The meaning of a head.

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
            self._recurring.clear()
            self._latest = None
        key = (parser.get_method(), url, parser.get_http_version(), trusted, *headers)
        try:
            return self._remembered[key]
        except KeyError:
            pass
        reading = self._read(parser, url, headers, trusted=trusted)
        size = len(url) + sum(len(name) + len(value) + HEADER_BYTES for name, value in headers)
        if size <= REMEMBERED_BYTES and reading.reply is None:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = reading
        return reading

    def learn(self, refrain: Refrain, reading: Reading, *, trusted: bool) -> None:
        """Remember what a head meant that recurs, for other connections of the same kind."""
        if len(refrain.before) + len(refrain.after) <= REMEMBERED_BYTES:
            if len(self._recurring) >= REMEMBERED:  # the oldest goes: one client's many heads cost others little
                del self._recurring[next(iter(self._recurring))]
            self._recurring[trusted, refrain.before, refrain.after] = refrain, reading

    def recall(self, data: bytes, *, trusted: bool) -> tuple[Refrain, Reading, int, int] | None:
        """The head that data begins with, if it is known by its bytes, and what it means; and where the body begins,
        and how long it is. Most often it is the one that was recalled last, which costs the least to find out.
        """
        if not self._recurring or self._read_at != self._gate.version:
            return None
        if self._latest is not None:
            kind, refrain, reading = self._latest
            if kind == trusted:
                start, length = refrain.find(data)
                if start:
                    return refrain, reading, start, length
        begins = refrain_in(data)
        known = self._recurring.get((trusted, begins.before, begins.after)) if begins else None
        if known is None:
            return None
        refrain, reading = known
        start, length = refrain.find(data)
        self._latest = (trusted, refrain, reading)
        return refrain, reading, start, length

    def _read(self, parser: httptools.HttpRequestParser, url: bytes, headers: Headers, *, trusted: bool) -> Reading:
        method, target = parser.get_method(), origin_form(url)
        path = path_of(target)
        control = control_route(target)
        values = joined(headers)
        origins = self._gate.origins
        reply: Reply | None = None
        if trusted:
            judgement = Judgement(OPERATOR)
        elif preflight := origins.preflight(method, values):
            judgement, reply = Judgement(NOBODY), preflight
        else:
            asked = Request(method, control or route_of(path), path, values, authority_of(url))
            judgement = self._gate.judge(asked)
            reply = judgement.refusal
        sizes = [len(url), *(len(name) + len(value) + len(b": \r\n") for name, value in headers)]
        if reply is None and (max(sizes) > LINE_BYTES or sum(sizes) > HEAD_BYTES):
            reply = HEAD_TOO_LARGE
        http_1_0 = parser.get_http_version() == "1.0"
        principal = judgement.principal
        head = Head(
            method,
            target,
            headers,
            http_1_0=http_1_0,
            keep_alive=not http_1_0 and parser.should_keep_alive(),
            owner=None if principal.id in WITHOUT_KEY else principal.id,
        )
        return Reading(
            head,
            principal,
            reply,
            control=control is not None,
            guess=judgement.guess,
            extra=origins.answer_headers(values.get(ORIGIN)),
            forwarded=tuple(value for name, value in headers if name == FORWARDED_FOR),
            recurs=reply is None
            and control is None
            and head.keep_alive
            and method == b"POST"
            and UNFIT_TO_RECUR.isdisjoint(values),
        )


def joined(headers: Headers) -> dict[bytes, bytes]:
    """Headers by name. One that comes twice has both values (RFC 9110, 5.3), which is no key and no host."""
    values: dict[bytes, bytes] = {}
    for name, value in headers:
        values[name] = values[name] + b", " + value if name in values else value
    return values


def control_route(target: bytes) -> Route | None:
    """FastAPI's route for this target: one of `CONTROL`, or the one that it lies below; None: it is the engine's."""
    path = target.partition(b"?")[0].decode("latin-1")
    first = path[1:].partition("/")[0]
    return CONTROL.get(path) or (CONTROL.get(f"/{first}") if first else None)


def origin_form(target: bytes) -> bytes:
    """A request target as path and query: `http://host/path?query` becomes `/path?query` (RFC 9112, 3.2.2).

    A fragment, which no request may have, is cut off, as the engine would.
    """
    target = target.partition(b"#")[0]
    if target.startswith(b"/"):
        return target
    url: Any = httptools.parse_url(target)  # its types deny that a part may be None
    query = b"?" + url.query if url.query else b""
    return (url.path or b"/") + query


def authority_of(target: bytes) -> bytes | None:
    """The host and port that a target names itself; None where it is a mere path."""
    if target.startswith(b"/"):
        return None
    try:
        return urlsplit(target).netloc
    except ValueError:
        return b""
