"""A load test of a front before a scripted engine."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.component.front_rig import CHUNKED, Asked, Engine, Rig, counted, rig
from tests.component.tls_rig import issue

from runner_supervisor.errors import RunnerError
from runner_supervisor.front.tls import Certificate
from runner_supervisor.loadtest.endpoint import connected
from runner_supervisor.loadtest.figures import Step
from runner_supervisor.loadtest.run import Plan, Start, measure

pytestmark = pytest.mark.anyio

MODELS = b'{"data":[{"id":"demo"}]}'
TOKENS = 5
PLAN = Plan(concurrency=(1, 3), requests=6, seconds_s=60.0, prompt_tokens=20, max_tokens=TOKENS)
STREAM = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n")

Answer = Callable[[Asked], Awaitable[None]]


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any) -> bytes:
    return chunked(b"data: %b\n\n" % json.dumps(data).encode())


USAGE = {"prompt_tokens": 40, "completion_tokens": TOKENS, "prompt_tokens_details": {"cached_tokens": 0}}
BEGINNING = STREAM + event({"choices": [{"delta": {"role": "assistant", "content": None}}]})
TOKEN = event({"choices": [{"delta": {"content": "a"}}]})
END = event({"choices": [], "usage": USAGE}) + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
BUSY = b'{"error":{"code":503,"message":"Busy.","type":"unavailable_error"}}'
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def chat(asked: Asked) -> None:
    """Name the model, or stream an answer."""
    if asked.head.startswith(b"GET /v1/models "):
        asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(MODELS) + MODELS)
    else:
        asked.writer.write(BEGINNING + TOKEN * TOKENS + END)


def after(number: int, then: Answer) -> Answer:
    """An engine that answers so many chats, and then does something else."""
    chats = itertools.count()

    async def answer(asked: Asked) -> None:
        is_chat = asked.head.startswith(b"POST")
        await (then if is_chat and next(chats) >= number else chat)(asked)

    return answer


async def refuse(asked: Asked) -> None:
    asked.writer.write(REFUSAL % len(BUSY) + BUSY)


class Told:
    """What a load test tells."""

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.steps: list[Step] = []
        self.ended = 0

    def progress(self, _: object) -> None:
        self.ended += 1


async def load(here: Rig, told: Told, plan: Plan = PLAN, *, key: str | None = None) -> None:
    async with connected(f"http://127.0.0.1:{here.port}", key=key, cacert=None) as endpoint:
        await measure(
            endpoint,
            plan,
            random=Random(7),  # noqa: S311 - so that it is the same each time
            on_start=told.starts.append,
            on_progress=told.progress,
            on_step=told.steps.append,
        )


def bodies(engine: Engine) -> list[dict[str, Any]]:
    return [json.loads(asked.body) for asked in engine.asked if asked.body]


async def test_each_step_makes_its_requests_with_prompts_of_the_wanted_length(short_dir: Path) -> None:
    told = Told()
    async with rig(short_dir, chat) as here:
        await load(here, told)
        asked = bodies(here.engine)
        assert counted(here, "ok") == 14
    assert [(step.concurrency, step.answers, step.errors) for step in told.steps] == [(1, 6, {}), (3, 6, {})]
    assert {step.generated_tokens for step in told.steps} == {6 * TOKENS}
    assert told.ended == 12
    prompts = [body["messages"][0]["content"] for body in asked]
    assert len(set(prompts)) == 13
    assert [len(each.split()) for each in prompts] == [20] + [10] * 12  # the first one took 40 tokens, not 20
    assert {body["model"] for body in asked} == {"demo"}


async def test_no_more_are_at_work_than_the_step_has_streams(short_dir: Path) -> None:
    told, at_work, most = Told(), 0, 0

    async def slowly(asked: Asked) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        await chat(asked)

    async with rig(short_dir, slowly) as here:
        await load(here, told)
    assert most <= 3


async def test_an_answers_beginning_is_not_its_first_token(short_dir: Path) -> None:
    told = Told()

    async def late(asked: Asked) -> None:
        asked.writer.write(BEGINNING)
        await asyncio.sleep(0.05)
        asked.writer.write(TOKEN * TOKENS + END)

    async with rig(short_dir, after(1, late)) as here:
        await load(here, told, Plan((1,), requests=1, seconds_s=60.0, prompt_tokens=20, max_tokens=TOKENS))
    [step] = told.steps
    assert step.ttft_p50_ms is not None
    assert step.ttft_p50_ms >= 50


async def test_a_step_by_the_clock_waits_for_the_requests_that_began_in_time(short_dir: Path) -> None:
    told = Told()
    async with rig(short_dir, chat) as here:
        await load(here, told, Plan((2,), requests=None, seconds_s=1.0, prompt_tokens=20, max_tokens=TOKENS))
        assert counted(here, "ok") == told.ended + 2
    [step] = told.steps
    assert step.answers == step.requests == told.ended


@pytest.mark.parametrize(
    ("ending", "cause"), [(refuse, "503 unavailable_error"), (None, "engine_failed")], ids=["refused", "broken"]
)
async def test_what_fails_is_counted_by_cause(short_dir: Path, ending: Answer | None, cause: str) -> None:
    told = Told()

    async def break_off(asked: Asked) -> None:
        asked.writer.write(BEGINNING + TOKEN)
        await asked.writer.drain()
        asked.writer.close()

    async with rig(short_dir, after(3, ending or break_off)) as here:
        await load(here, told, Plan((1,), requests=4, seconds_s=60.0, prompt_tokens=20, max_tokens=TOKENS))
    [step] = told.steps
    assert (step.answers, step.errors) == (2, {cause: 2})


@pytest.mark.parametrize("key", [None, "wrong"])
async def test_who_has_no_key_is_told_to_give_one(short_dir: Path, key: str | None) -> None:
    told = Told()
    async with rig(short_dir, chat, keys=["secret"]) as here:
        with pytest.raises(RunnerError, match=r"answers 401: .*; give a key in API_KEY"):
            await load(here, told, key=key)
        await load(here, told, key="secret")
    assert len(told.steps) == 2


async def test_an_address_at_which_nothing_answers_is_named(short_dir: Path) -> None:
    async with rig(short_dir, chat) as here:
        port = here.port
    async with connected(f"http://127.0.0.1:{port}", key=None, cacert=None) as endpoint:
        with pytest.raises(RunnerError, match=rf"cannot reach http://127\.0\.0\.1:{port}: .*; does it run there\?"):
            await endpoint.model()


async def test_a_certificate_of_ones_own_has_to_be_named(short_dir: Path) -> None:
    files = issue(short_dir)
    files.authority.cert_pem.write_to_path(str(short_dir / "authority.pem"))
    async with rig(short_dir, chat, certificate=Certificate(files.certificate, files.key)) as here:
        url = f"https://127.0.0.1:{here.port}"
        async with connected(url, key=None, cacert=None) as endpoint:
            with pytest.raises(RunnerError, match="name the certificate to trust with --cacert"):
                await endpoint.model()
        async with connected(url, key=None, cacert=short_dir / "authority.pem") as endpoint:
            assert await endpoint.model() == "demo"


async def test_a_first_request_that_fails_ends_it(short_dir: Path) -> None:
    async with rig(short_dir, after(0, refuse)) as here:
        with pytest.raises(RunnerError, match=r"the first request failed \(503 unavailable_error\): Busy\."):
            await load(here, Told())


async def test_a_certificate_that_is_none_is_refused(short_dir: Path) -> None:
    with pytest.raises(RunnerError, match=r"cannot use the certificate .*missing\.pem"):
        async with connected("https://127.0.0.1:1", key=None, cacert=short_dir / "missing.pem"):
            pass


async def test_a_step_that_is_interrupted_tells_what_had_ended(short_dir: Path) -> None:
    told, stuck = Told(), asyncio.Event()

    async def hang(asked: Asked) -> None:
        stuck.set()
        await asked.left()

    async with rig(short_dir, after(9, hang)) as here:
        loading = asyncio.create_task(load(here, told))
        await stuck.wait()
        while told.ended < 8:
            await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    assert [(step.requests, step.answers, step.errors) for step in told.steps] == [(6, 6, {}), (2, 2, {})]
