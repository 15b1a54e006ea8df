"""Limits that several supervisors share, in Redis.

What is asked waits in a queue, and one task takes it to Redis, many at a time and in order; nothing waits longer
than `DEADLINE_S`. When Redis is lost, this supervisor's own limits decide, which have followed what Redis said, until
it is back. Needs the extra `redis`; see `keys.limiter`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from runner_supervisor.core.access import Principal
from runner_supervisor.core.quota import CONCURRENT_RETRY_S, TICK_S, Limit, Use, Verdict
from runner_supervisor.errors import ConfigError
from runner_supervisor.keys.limits import LocalLimits
from runner_supervisor.keys.scripts import CHARGE, REFRESH, TAKE

DEADLINE_S = 0.25
"""How long a request waits for Redis, its time in the queue included."""

LEAST_TRIP_S = 0.05
"""How long one trip to Redis may take in any case: an event loop that was busy is no reason to give Redis up."""

LEASE_S = 30.0
"""After how long what a supervisor had at work is free, once it says no more of it."""

MOST_QUEUED = 4096
MOST_A_TRIP = 256
LEASES_A_CALL = 1000
CONNECT_S = 1.0
FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 5.0

_LOST = (RedisError, OSError, TimeoutError)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Errand:
    """What is to be done in Redis. `done` gets the reply; `lost` is called instead where none comes."""

    begun_s: float
    command: tuple[Any, ...]
    done: Callable[[Any], None] | None = None
    lost: Callable[[], None] | None = None


class SharedLimits:
    """A `Limiter` whose counts are Redis's. `run` must be running; without it, the local limits decide."""

    def __init__(self, url: str, local: LocalLimits, *, lease_s: float = LEASE_S) -> None:
        """Nothing is connected yet.

        Args:
            url: redis:// or rediss:// (TLS), with user and password if there are any; or unix://.
            local: they follow what Redis says, decide while it is lost, and count what keys use.
            lease_s: see `LEASE_S`.

        Raises:
            ConfigError: that is no such URL.
        """
        try:
            self._secret: Final = unquote(urlsplit(url).password or "")
            self._client: Final = Redis.from_url(
                url,
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=CONNECT_S,
                socket_timeout=None,
            )
        except (ValueError, TypeError):
            raise ConfigError("limits_url is no URL of a Redis server; write redis://host:port/0") from None
        self._local = local
        self._lease_s = lease_s
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._leases: dict[int, str] = {}
        self._records: dict[str, str] = {}  # by key id: what its record in Redis was called when last seen
        self._errands: deque[_Errand] = deque()
        self._wanted = asyncio.Event()
        self._shared = False

    @property
    def shared(self) -> bool:
        """Whether Redis decides now; otherwise this supervisor does, alone."""
        return self._shared

    def take(self, principal: Principal, then: Callable[[Verdict], None]) -> None:
        """Count one request for a key. `then` is called once, within `DEADLINE_S`, with whether it may go ahead.

        Who does not want the verdict any more must still release what it allowed.
        """
        if not principal.limits or not self._room(principal):
            self._local.take(principal, then)
            return
        limits = principal.limits
        lease = next(self._numbers)
        command = (
            TAKE,
            2,
            _record(principal.id),
            _leases(principal.id),
            *self._believed(principal),
            self._local.standing(principal).working,
            limits.concurrent or 0,
            f"{self._name}:{lease}",
            self._lease_s,
            CONCURRENT_RETRY_S,
        )
        self._send(
            command,
            done=lambda reply: self._taken(principal, lease, reply, then),
            lost=lambda: then(self._local.decide(principal)),
        )

    def release(self, principal: Principal, lease: int) -> None:
        """A request that was let go ahead has ended."""
        self._local.release(principal, lease)
        if self._leases.pop(lease, None) is not None and self._room(principal):
            command = (
                "return redis.call('ZREM', KEYS[1], ARGV[1])",
                1,
                _leases(principal.id),
                f"{self._name}:{lease}",
            )
            self._send(command)

    def charge(self, principal: Principal, *, prompt_tokens: int, generated_tokens: int) -> None:
        """Count what a request has cost."""
        if principal.limits.tokens is not None and self._room(principal):
            tokens = prompt_tokens + generated_tokens
            self._send((CHARGE, 1, _record(principal.id), *self._believed(principal), tokens))
        self._local.charge(principal, prompt_tokens=prompt_tokens, generated_tokens=generated_tokens)

    async def run(self) -> None:
        """Carry what is asked to Redis, until cancelled; from then on the local limits decide."""
        self._shared = True
        try:
            while True:
                try:
                    await self._serve()
                except _LOST as error:
                    self._lose()
                    log.warning(
                        "the Redis server for limits is lost (%s); our own limits hold until it is back",
                        self._said(error),
                    )
                await self._come_back()
                log.info("the Redis server for limits is back")
        finally:
            self._lose()
            await self._disconnect()

    async def _serve(self) -> None:
        """Run errands until Redis is lost."""
        loop = asyncio.get_running_loop()
        self._refresh()
        refreshed_s = loop.time()
        while True:
            self._wanted.clear()
            if not self._errands:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(refreshed_s + self._lease_s / 3):
                        await self._wanted.wait()
            if loop.time() >= refreshed_s + self._lease_s / 3:
                self._refresh()
                refreshed_s = loop.time()
            if self._errands:
                await self._trip(loop)

    async def _trip(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the oldest errands. They stay in the queue until they are done."""
        errands = list(itertools.islice(self._errands, MOST_A_TRIP))
        pipeline = self._client.pipeline(transaction=False)
        for errand in errands:
            pipeline.eval(*errand.command)
        until_s = max(errands[0].begun_s + DEADLINE_S, loop.time() + LEAST_TRIP_S)
        async with asyncio.timeout_at(until_s):
            replies = await pipeline.execute(raise_on_error=False)
        for errand, reply in zip(errands, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            self._errands.popleft()
            if errand.done is not None:
                errand.done(reply)

    def _taken(self, principal: Principal, lease: int, reply: list[bytes], then: Callable[[Verdict], None]) -> None:
        exceeded, record = reply[0].decode(), reply[6].decode()
        wait_s, spent, now, window_s, tokens = map(float, reply[1:6])
        use = Use(spent, now, window_s, int(tokens))
        limit = Limit(exceeded) if exceeded else None
        self._records[principal.id] = record
        self._local.follow(principal, use, allowed=limit is None)
        verdict = use.verdict(principal.limits, now, limit, wait_s + TICK_S if limit else 0.0)
        if limit is None and principal.limits.concurrent is not None:
            self._leases[lease] = principal.id
            verdict = verdict._replace(lease=lease)
        asyncio.get_running_loop().call_soon(then, verdict)

    def _believed(self, principal: Principal) -> Iterable[str | float]:
        """The arguments that all scripts begin with."""
        limits, use = principal.limits, self._local.standing(principal)
        requests, tokens = limits.requests, limits.tokens
        return (
            requests.amount if requests else 0,
            requests.period_s if requests else 0,
            tokens.amount if tokens else 0,
            tokens.period_s if tokens else 0,
            self._records.get(principal.id, ""),
            f"{self._name}:{next(self._numbers)}",
            use.spent,
            use.window_s,
            use.tokens,
        )

    def _room(self, principal: Principal) -> bool:
        """Whether Redis is asked. Where not, what it knows of the key is from now on behind what is known here."""
        if self._shared and len(self._errands) < MOST_QUEUED:
            return True
        self._records.pop(principal.id, None)
        return False

    def _send(
        self,
        command: tuple[Any, ...],
        *,
        done: Callable[[Any], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self._errands.append(_Errand(asyncio.get_running_loop().time(), command, done, lost))
        self._wanted.set()

    def _refresh(self) -> None:
        """Have the leases of what is at work here go on."""
        by_key: dict[str, list[str]] = {}
        for lease, key in self._leases.items():
            by_key.setdefault(key, []).append(f"{self._name}:{lease}")
        for key, leases in by_key.items():
            for begin in range(0, len(leases), LEASES_A_CALL):
                chunk = leases[begin : begin + LEASES_A_CALL]
                self._send((REFRESH, 1, _leases(key), self._lease_s, *chunk))

    def _lose(self) -> None:
        """Decide here what was to be decided there."""
        self._shared = False
        self._records.clear()
        errands, self._errands = self._errands, deque()
        for errand in errands:
            if errand.lost is not None:
                asyncio.get_running_loop().call_soon(errand.lost)

    async def _come_back(self) -> None:
        """Try to reach Redis, ever more seldom."""
        wait_s = FIRST_RETRY_S
        while True:
            await self._disconnect()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)
            with suppress(*_LOST):
                async with asyncio.timeout(CONNECT_S):
                    # Not PING: a server that is loading, or may only be read from, is of no use.
                    await self._client.eval("return redis.call('SET', KEYS[1], 1, 'PX', 1000)", 1, "runner:back")
                self._shared = True
                return

    async def _disconnect(self) -> None:
        with suppress(*_LOST):
            async with asyncio.timeout(CONNECT_S):
                await self._client.aclose()

    def _said(self, error: BaseException) -> str:
        """An error in words, never with the password."""
        words = str(error) or "no answer in time"
        return words.replace(self._secret, "***") if self._secret else words


def _record(key: str) -> str:
    return f"runner:{{{key}}}:use"


def _leases(key: str) -> str:
    return f"runner:{{{key}}}:leases"
