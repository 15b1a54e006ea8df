"""What is kept of a request besides its answer: whom it counts for, what it cost, and a line in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Final, Protocol

from runner_supervisor.core.quota import Verdict
from runner_supervisor.front.addresses import Proxies
from runner_supervisor.front.audit import AuditLog, Entry
from runner_supervisor.front.contentlog import Content, ContentLog
from runner_supervisor.front.figures import Bill, Figures
from runner_supervisor.front.heads import Reading
from runner_supervisor.front.ledger import Ledger
from runner_supervisor.front.metrics.requests import Tally
from runner_supervisor.front.ratelimits import header_lines, refusal
from runner_supervisor.front.replies import Refusal
from runner_supervisor.front.requestids import RequestIds
from runner_supervisor.front.strikes import Strikes
from runner_supervisor.front.traces import Headers, Trace, Tracer
from runner_supervisor.keys.limits import UNLIMITED, Limiter

NOTHING: Final = Figures()


def forget(_visit: Visit) -> None:
    """What nobody wants to know."""


def decided(_refusal: Refusal | None) -> None:
    """What follows a decision that has been made already."""


class Caller(Protocol):
    """The client's connection, as far as it says who that is."""

    def address(self, forwarded: Sequence[bytes]) -> str:
        """The client's address, by what trusted proxies say."""


@dataclass
class Desk:
    """Where requests are written down.

    `tracer`: begins their spans; None: traces are off. `model`: the name of the model that is served. `written`: is
    told of each that was written down.
    """

    limiter: Limiter
    audit: AuditLog | None
    contents: ContentLog | None
    strikes: Strikes
    proxies: Proxies
    ids: RequestIds
    tracer: Tracer | None = None
    model: str = ""
    tally: Tally = field(default_factory=Tally)
    ledger: Ledger = field(default_factory=Ledger)
    written: Callable[[Visit], None] = forget


class Visit:
    """One request, from its head to its end. Times are seconds on `perf_counter`'s clock.

    Attributes:
        content: where its body and its answer's are written down, if they are.
        bill: what the engine has spent on it, as far as that is known; None: nothing.
        first_s: when the first of its answer's body came; 0: not yet.
        streamed: whether its answer is a stream of events.
        trace_lines: the header lines that name its span to the engine; empty: traces are off.
    """

    content: Content | None = None
    first_s = 0.0
    streamed = False
    trace_lines = b""
    _settled = False
    _status: int
    _outcome: str
    _model: str
    _address: str
    _ended_at_s: float
    """On the system's clock."""
    _ended_s: float
    _then: Callable[[Refusal | None], None]
    _verdict: Verdict | None = None

    def __init__(
        self, reading: Reading, request_id: bytes, caller: Caller, desk: Desk, context: Headers = ()
    ) -> None:
        """Begin. `context`: the headers that say which span it belongs to, if traces are on."""
        self.began_s = self._sent_s = perf_counter()
        self.request_id = request_id
        self.bill: Bill | None = None
        self._reading = reading
        self._caller = caller
        self._desk = desk
        self._trace: Trace | None = None
        if desk.tracer is not None:
            self._trace = desk.tracer.begin(context)
            self.trace_lines = self._trace.lines

    def punish(self) -> float:
        """Count the wrong key that it came with; returns for how many seconds the answer is kept back."""
        return self._desk.strikes.failed(self._caller.address(self._reading.forwarded))

    def take(self, then: Callable[[Refusal | None], None]) -> None:
        """Count it for its key, and go on with None, or with why it may not, unless it has ended by then."""
        self._then = then
        self._desk.limiter.take(self._reading.principal, self._decided)

    def _decided(self, verdict: Verdict) -> None:
        principal, then = self._reading.principal, self._then
        self._then = decided  # what goes on has this visit itself: neither would be freed before the collector comes
        if not self._settled:
            self._verdict = verdict
            then(refusal(verdict, principal))
        elif verdict.exceeded is None:
            self._desk.limiter.release(principal, verdict.lease)

    def header_lines(self) -> list[bytes]:
        """What its answer says of it."""
        lines = [b"x-request-id: " + self.request_id, *self._reading.extra]
        verdict = self._verdict
        return lines if verdict is None or verdict is UNLIMITED else lines + header_lines(verdict)

    def keep(self, body: Sequence[bytes]) -> None:
        """Its body is all here; it is written down if that was asked for."""
        if self._desk.contents is None:
            return
        reading = self._reading
        self.content = self._desk.contents.begin(
            request_id=self.request_id, key=reading.principal.id, path=reading.head.route.label
        )
        for piece in body:
            self.content.request(piece)

    def sent(self) -> None:
        """It is on its way to the engine."""
        self._sent_s = perf_counter()

    def tee(self, on_data: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """Where the bytes of an answer go that is written down, too."""
        content = self.content

        def both(data: bytes) -> None:
            if content:
                content.answer(data)
            on_data(data)

        return both

    @property
    def figures(self) -> Figures:
        """What the engine has spent on it, as far as that is known."""
        return NOTHING if self.bill is None else self.bill.figures()

    @property
    def key_name(self) -> str:
        """The name of its key."""
        return self._reading.principal.name

    @property
    def queue_ms(self) -> float:
        """How long it took from its head to its way to the engine, in milliseconds."""
        return 1000 * (self._sent_s - self.began_s)

    def settle(self, *, status: int, outcome: str) -> None:
        """It has ended. `status`: of its answer; 0: it got none. `outcome`: see `front.audit`."""
        if self._settled:
            return
        self._settled = True
        if self.content is not None:
            self.content.end(status or None)
            self.content = None
        desk, reading = self._desk, self._reading
        principal = reading.principal
        verdict = self._verdict
        if verdict is not None and verdict.exceeded is None and verdict is not UNLIMITED:
            desk.limiter.release(principal, verdict.lease)
            self._charge()  # the key's next request may be one too many
        self._status, self._outcome, self._model = status, outcome, desk.model
        self._address = self._caller.address(reading.forwarded)
        self._ended_at_s, self._ended_s = time(), perf_counter()
        desk.ledger.add(self)

    def _charge(self) -> None:
        """Have it counted for its key what it has cost."""
        prompt_tokens, _, generated_tokens, _ = self.figures
        if prompt_tokens or generated_tokens:
            self._desk.limiter.charge(
                self._reading.principal, prompt_tokens=prompt_tokens, generated_tokens=generated_tokens
            )

    def write_down(self) -> None:
        """Count it, and have a line of it written, when it has ended."""
        desk, reading, status, outcome = self._desk, self._reading, self._status, self._outcome
        if self._verdict is UNLIMITED:
            self._charge()
        desk.written(self)
        principal, route = reading.principal, reading.head.route.label
        took_s = self._ended_s - self.began_s
        desk.tally.ended(
            self._model,
            route,
            status,
            outcome,
            key=principal.share.key,
            cost=self.figures,
            began_s=self.began_s,
            first_s=self.first_s if self.streamed else 0.0,
            now_s=self._ended_s,
        )
        if desk.audit is None and self._trace is None:
            return
        prompt_tokens, cached_tokens, generated_tokens, estimated = self.figures
        entry = Entry(
            self._ended_at_s - took_s,
            self.request_id,
            principal.share.key or None,
            principal.name or None,
            self._address,
            reading.head.method.decode(),
            route,
            status or None,
            outcome,
            1000 * took_s,
            self._model,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            self.queue_ms,
            1000 * (self.first_s - self.began_s) if self.first_s else None,
        )
        if desk.audit is not None:
            desk.audit.record(entry)
        if self._trace is not None:
            self._trace.end(entry, streamed=self.streamed, estimated=estimated)
