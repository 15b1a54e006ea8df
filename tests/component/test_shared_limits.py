"""Limits that supervisors share through a real Redis, and what holds when it is lost."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.component.redis_rig import RedisServer

from runner_supervisor.core.access import Principal
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import Limit, Limits, Quota, Verdict
from runner_supervisor.errors import ConfigError
from runner_supervisor.keys.limiter import shared_limits
from runner_supervisor.keys.limits import LocalLimits
from runner_supervisor.keys.shared import DEADLINE_S, MOST_QUEUED, SharedLimits

PATIENCE_S = 10.0
LONG_S = 864_000.0
"""A period in which next to nothing is gained while a test goes on."""

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis(short_dir: Path) -> Iterator[RedisServer]:
    server = RedisServer(short_dir)
    yield server
    server.close()


@asynccontextmanager
async def supervisor(
    redis: RedisServer, local: LocalLimits | None = None, *, lease_s: float = 30.0
) -> AsyncIterator[SharedLimits]:
    """The limits of one supervisor."""
    limits = SharedLimits(redis.url, local or LocalLimits(), lease_s=lease_s)
    task = asyncio.create_task(limits.run())
    try:
        await until(lambda: limits.shared)
        yield limits
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def principal(limits: Limits, key: str = "a") -> Principal:
    return Principal(Share(key), key, limits=limits)


async def take(limits: SharedLimits, key: Principal) -> Verdict:
    answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    limits.take(key, answer.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await answer


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(limits: SharedLimits) -> None:
    """Until what was asked has been done."""
    await until(lambda: not limits._errands)


async def test_supervisors_share_one_bucket_exactly(redis: RedisServer) -> None:
    key = principal(Limits(Quota(100, LONG_S)))
    async with supervisor(redis) as a, supervisor(redis) as b, supervisor(redis) as c, supervisor(redis) as d:
        verdicts = await asyncio.gather(*(take(each, key) for _ in range(100) for each in (a, b, c, d)))
    assert Counter(verdict.exceeded for verdict in verdicts) == {None: 100, Limit.REQUESTS: 300}


async def test_supervisors_share_one_budget_of_tokens(redis: RedisServer) -> None:
    key = principal(Limits(tokens=Quota(100, LONG_S)))
    async with supervisor(redis) as a, supervisor(redis) as b:
        assert (await take(b, key)).exceeded is None
        a.charge(key, prompt_tokens=60, generated_tokens=50)
        await settled(a)
        refused = await take(b, key)
    assert refused.exceeded is Limit.TOKENS
    assert 0 < refused.retry_after_s <= LONG_S
    assert refused.tokens is not None
    assert refused.tokens.remaining == 0


async def test_supervisors_share_how_many_are_at_work(redis: RedisServer) -> None:
    key = principal(Limits(concurrent=3))
    async with supervisor(redis) as a, supervisor(redis) as b:
        first, *_ = [await take(each, key) for each in (a, b, a)]
        assert (await take(b, key)).exceeded is Limit.CONCURRENT
        a.release(key, first.lease)
        await settled(a)
        assert (await take(b, key)).exceeded is None
        assert (await take(a, key)).exceeded is Limit.CONCURRENT


async def test_a_verdict_is_what_local_limits_would_say(redis: RedisServer) -> None:
    key = principal(Limits(Quota(3, LONG_S), Quota(10, LONG_S), 5))
    local = LocalLimits()
    async with supervisor(redis) as limits:
        for tokens in (4, 0, 0, 0):
            mine, theirs = local.decide(key), await take(limits, key)
            assert (theirs.exceeded, bool(theirs.lease)) == (mine.exceeded, mine.exceeded is None)
            assert theirs.retry_after_s == pytest.approx(mine.retry_after_s, abs=5)
            for ours, other in ((mine.requests, theirs.requests), (mine.tokens, theirs.tokens)):
                assert ours is not None
                assert other is not None
                assert other == (ours.limit, ours.remaining, pytest.approx(ours.reset_s, abs=5))
            for each in (local, limits):
                each.charge(key, prompt_tokens=tokens, generated_tokens=0)


async def test_a_key_without_limits_is_no_business_of_redis(redis: RedisServer) -> None:
    verdicts: list[Verdict] = []
    async with supervisor(redis) as limits:
        limits.take(principal(Limits()), verdicts.append)
        limits.charge(principal(Limits()), prompt_tokens=1, generated_tokens=1)
        assert verdicts == [Verdict()]
        assert redis.records() == []


async def test_records_end_by_themselves_and_hold_no_more_than_key_ids(redis: RedisServer) -> None:
    key = principal(Limits(Quota(10, 60.0), Quota(10, 60.0), 5), "abcdef012345")
    async with supervisor(redis) as limits:
        await take(limits, key)
        limits.charge(key, prompt_tokens=1, generated_tokens=1)
        await settled(limits)
    names = redis.records()
    assert names == ["runner:{abcdef012345}:leases", "runner:{abcdef012345}:use"]
    assert all(0 < redis.do("PTTL", name) <= 61_000 for name in names)  # type: ignore[operator]


async def test_leases_of_long_requests_are_renewed(redis: RedisServer) -> None:
    key = principal(Limits(concurrent=1))
    async with supervisor(redis, lease_s=0.3) as a, supervisor(redis) as b:
        await take(a, key)
        (first,) = leases(redis).values()
        await until(lambda: [ends_s > first + 0.6 for ends_s in leases(redis).values()] == [True])
        assert (await take(b, key)).exceeded is Limit.CONCURRENT


def leases(redis: RedisServer) -> dict[bytes, float]:
    return dict(redis.do("ZRANGE", "runner:{a}:leases", "0", "-1", "WITHSCORES"))  # type: ignore[call-overload]


KILLED = """
import asyncio, sys
from runner_supervisor.core.access import Principal
from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import Limits
from runner_supervisor.keys.limits import LocalLimits
from runner_supervisor.keys.shared import SharedLimits

async def main():
    limits = SharedLimits(sys.argv[1], LocalLimits(), lease_s=1.0)
    task = asyncio.create_task(limits.run())
    await asyncio.sleep(0)
    key = Principal(Share("a"), "a", limits=Limits(concurrent=1))
    limits.take(key, lambda verdict: print(verdict.lease, flush=True))
    await task

asyncio.run(main())
"""


async def test_what_a_killed_supervisor_had_at_work_is_free_after_its_lease(redis: RedisServer) -> None:
    key = principal(Limits(concurrent=1))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, redis.url, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert int(await child.stdout.readline()) > 0
    async with supervisor(redis) as limits:
        assert (await take(limits, key)).exceeded is Limit.CONCURRENT
        child.kill()
        await child.wait()
        async with asyncio.timeout(PATIENCE_S):
            while (await take(limits, key)).exceeded is not None:
                await asyncio.sleep(0.02)


async def test_a_redis_that_was_killed_is_lost_at_once_and_found_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    key = principal(Limits(Quota(10, LONG_S)))
    async with supervisor(redis) as limits:
        for _ in range(4):
            assert (await take(limits, key)).exceeded is None
        redis.kill()
        taken = [(await take(limits, key)).exceeded for _ in range(10)]
        assert taken == [None] * 6 + [Limit.REQUESTS] * 4
        assert not limits.shared
        redis.start()
        await until(lambda: limits.shared)
        assert (await take(limits, key)).exceeded is Limit.REQUESTS
    assert caplog.text.count("is lost") == 1
    assert caplog.text.count("limits is back") == 1


async def test_a_redis_that_says_nothing_is_lost_within_the_deadline(redis: RedisServer) -> None:
    key = principal(Limits(Quota(50, LONG_S)))
    async with supervisor(redis) as limits:
        await take(limits, key)
        redis.stop()
        begun_s = time.monotonic()
        verdicts = await asyncio.gather(*(take(limits, key) for _ in range(100)))
        waited_s = time.monotonic() - begun_s
        assert Counter(verdict.exceeded for verdict in verdicts) == {None: 49, Limit.REQUESTS: 51}
        assert DEADLINE_S * 0.9 < waited_s < 4 * DEADLINE_S
        redis.go_on()
        await until(lambda: limits.shared)
        assert (await take(limits, key)).exceeded is Limit.REQUESTS


async def test_a_redis_that_forgot_everything_gives_no_more_than_each_supervisor_would_alone(
    redis: RedisServer,
) -> None:
    key = principal(Limits(Quota(10, LONG_S), Quota(100, LONG_S)))
    async with supervisor(redis) as a, supervisor(redis) as b:
        for _ in range(10):
            await take(a, key)
        assert (await take(b, key)).exceeded is Limit.REQUESTS
        redis.do("FLUSHALL")
        assert (await take(a, key)).exceeded is Limit.REQUESTS
        assert (await take(b, key)).exceeded is Limit.REQUESTS


async def test_tokens_charged_while_redis_was_away_count_when_it_is_back(redis: RedisServer) -> None:
    key = principal(Limits(tokens=Quota(100, LONG_S)))
    async with supervisor(redis) as limits, supervisor(redis) as other:
        await take(limits, key)
        redis.kill()
        await take(limits, key)
        limits.charge(key, prompt_tokens=100, generated_tokens=0)
        redis.start()
        await until(lambda: limits.shared)
        assert (await take(limits, key)).exceeded is Limit.TOKENS
        await take(other, key)  # finds that its connection is gone, if nothing else did
        await until(lambda: other.shared)
        assert (await take(other, key)).exceeded is Limit.TOKENS


async def test_requests_at_work_are_known_to_a_redis_that_comes_back(redis: RedisServer) -> None:
    key = principal(Limits(concurrent=1))
    async with supervisor(redis) as a, supervisor(redis) as b:
        verdict = await take(a, key)
        redis.kill()
        assert (await take(a, key)).exceeded is Limit.CONCURRENT
        redis.start()
        await until(lambda: a.shared)
        await settled(a)
        noticed = await take(b, key)  # that it was away; b may have decided alone
        if noticed.exceeded is None:
            b.release(key, noticed.lease)
        await until(lambda: b.shared)
        assert (await take(b, key)).exceeded is Limit.CONCURRENT
        a.release(key, verdict.lease)
        await settled(a)
        assert (await take(b, key)).exceeded is None


async def test_a_server_that_takes_no_writes_is_no_help(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    key = principal(Limits(Quota(1, LONG_S)))
    redis.do("CONFIG", "SET", "maxmemory", "1")
    async with supervisor(redis) as limits:
        assert (await take(limits, key)).exceeded is None
        assert (await take(limits, key)).exceeded is Limit.REQUESTS
        assert not limits.shared
        assert "maxmemory" in caplog.text
        redis.do("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: limits.shared)


async def test_more_than_can_wait_is_decided_here(redis: RedisServer) -> None:
    key = principal(Limits(Quota(10, LONG_S)))
    verdicts: list[Verdict] = []
    async with supervisor(redis) as limits:
        redis.stop()
        for _ in range(MOST_QUEUED + 100):
            limits.take(key, verdicts.append)
        assert len(verdicts) == 100
        assert len(limits._errands) == MOST_QUEUED
        await until(lambda: len(verdicts) == MOST_QUEUED + 100)
        redis.go_on()
    assert sum(verdict.exceeded is None for verdict in verdicts) == 10


async def test_the_end_answers_whoever_waits(redis: RedisServer) -> None:
    verdicts: list[Verdict] = []
    async with supervisor(redis) as limits:
        redis.stop()
        limits.take(principal(Limits(Quota(10, LONG_S))), verdicts.append)
    redis.go_on()
    await until(lambda: len(verdicts) == 1)


async def test_no_error_repeats_the_password(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(short_dir, password="right")
    try:
        limits = SharedLimits(server.url.replace("right", "hush-hush"), LocalLimits())
        task = asyncio.create_task(limits.run())
        await asyncio.sleep(0)
        assert (await take(limits, principal(Limits(concurrent=1)))).exceeded is None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    finally:
        server.close()
    assert "is lost" in caplog.text
    assert "hush-hush" not in caplog.text


@pytest.mark.parametrize(
    "url", ["redis://:hush-hush@host:port", "http://:hush-hush@host", "redis://:hush-hush@[", ""]
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://host:port") as raised:
        shared_limits(url, LocalLimits())
    assert "hush-hush" not in str(raised.value)


def test_a_client_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "redis" or name.endswith("keys.shared")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "site-packages" not in each])
    with pytest.raises(ConfigError, match=r"runner-supervisor\[redis\]"):
        shared_limits("redis://localhost", LocalLimits())
