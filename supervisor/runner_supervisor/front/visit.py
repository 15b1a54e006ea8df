"""What is kept of a request besides its answer: whom it counts for, what it cost, and a line in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, time
from typing import Protocol

from runner_supervisor.core.quota import Verdict
from runner_supervisor.front.addresses import Proxies
from runner_supervisor.front.audit import AuditLog, Entry
from runner_supervisor.front.contentlog import Content, ContentLog
from runner_supervisor.front.figures import Asked, Figures, Seen, figures_of
from runner_supervisor.front.heads import Reading
from runner_supervisor.front.ratelimits import header_lines, refusal
from runner_supervisor.front.replies import Refusal
from runner_supervisor.front.requestids import RequestIds
from runner_supervisor.front.strikes import Strikes
from runner_supervisor.front.upstream import Connection
from runner_supervisor.keys.limits import Limiter

NOTHING = Figures()


class Caller(Protocol):
    """The client's connection, as far as it says who that is."""

    def address(self, forwarded: Sequence[bytes]) -> str:
        """The client's address, by what trusted proxies say."""


@dataclass
class Desk:
    """Where requests are written down. `model`: the name of the model that is served."""

    limiter: Limiter
    audit: AuditLog | None
    contents: ContentLog | None
    strikes: Strikes
    proxies: Proxies
    ids: RequestIds
    model: str = ""


class Visit:
    """One request, from its head to its end. Times are seconds on `perf_counter`'s clock."""

    __slots__ = ("_caller", "_desk", "_first_s", "_reading", "_sent_s", "_settled", "_verdict", "began_s",
                 "content", "figures", "request_id")  # fmt: skip

    def __init__(self, reading: Reading, request_id: bytes, *, caller: Caller, desk: Desk) -> None:
        self.began_s = self._sent_s = perf_counter()
        self._first_s = 0.0
        self.request_id = request_id
        self.figures = NOTHING
        self._reading = reading
        self._caller = caller
        self._desk = desk
        self._verdict: Verdict | None = None
        self._settled = False
        self.content: Content | None = None

    def punish(self) -> float:
        """Count the wrong key that it came with; returns for how many seconds the answer is kept back."""
        return self._desk.strikes.failed(self._caller.address(self._reading.forwarded))

    def take(self, then: Callable[[Refusal | None], None]) -> None:
        """Count it for its key, and go on with None, or with why it may not, unless it has ended by then."""

        def decided(verdict: Verdict) -> None:
            if not self._settled:
                self._verdict = verdict
                then(refusal(verdict, principal))
            elif verdict.exceeded is None:
                self._desk.limiter.release(principal, verdict.lease)

        principal = self._reading.principal
        self._desk.limiter.take(principal, decided)

    def header_lines(self) -> list[bytes]:
        """What its answer says of it."""
        lines = [b"x-request-id: " + self.request_id, *self._reading.extra]
        return lines if self._verdict is None else lines + header_lines(self._verdict)

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
    def key_name(self) -> str:
        """The name of its key."""
        return self._reading.principal.name

    @property
    def first_s(self) -> float:
        """When the first of its answer's body came; 0: nothing has been counted yet."""
        return self._first_s

    @property
    def queue_ms(self) -> float:
        """How long it took from its head to its way to the engine, in milliseconds."""
        return 1000 * (self._sent_s - self.began_s)

    def count(self, connection: Connection, asked: Asked, *, streamed: bool, whole: bool) -> None:
        """See in its answer what the engine has spent on it.

        Args:
            connection: on which the answer came.
            asked: what it asked for.
            streamed: whether the answer is a stream of events.
            whole: whether it came to its end.
        """
        self._first_s = connection.first_s
        seen = Seen(
            connection.first, connection.last, connection.pieces, connection.size, streamed=streamed, whole=whole
        )
        self.figures = figures_of(asked, seen)

    def settle(self, *, status: int, outcome: str) -> None:
        """It has ended. `status`: of its answer; 0: it got none. `outcome`: see `front.audit`."""
        if self._settled:
            return
        self._settled = True
        if self.content is not None:
            self.content.end(status or None)
        desk, reading, cost = self._desk, self._reading, self.figures
        principal = reading.principal
        if self._verdict is not None and self._verdict.exceeded is None:
            desk.limiter.release(principal, self._verdict.lease)
            if cost is not NOTHING:
                desk.limiter.charge(
                    principal, prompt_tokens=cost.prompt_tokens, generated_tokens=cost.generated_tokens
                )
        if desk.audit is not None:
            now = perf_counter()
            desk.audit.record(
                Entry(
                    time_s=time() - (now - self.began_s),
                    request_id=self.request_id,
                    key=principal.id or None,
                    key_name=principal.name or None,
                    address=self._caller.address(reading.forwarded),
                    method=reading.head.method.decode(),
                    path=reading.head.route.label,
                    status=status or None,
                    outcome=outcome,
                    ms=1000 * (now - self.began_s),
                    model=desk.model,
                    prompt_tokens=cost.prompt_tokens,
                    cached_tokens=cost.cached_tokens,
                    generated_tokens=cost.generated_tokens,
                    queue_ms=self.queue_ms,
                    ttft_ms=1000 * (self._first_s - self.began_s) if self._first_s else None,
                )
            )
