"""Every request to the engine is one span with its phases, at a collector; and its name goes on to the engine."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httptools
import pytest
from tests.component.collector_rig import ERROR, INTERNAL, UNSET, Collector, Got, collecting
from tests.component.front_rig import CHUNKED, Asked, Rig, request, rig, say_hi

from runner_supervisor.core.states import State
from runner_supervisor.front.heads import Headers, Heads, Reading
from runner_supervisor.front.otel import OpenTelemetry
from runner_supervisor.front.traces import endpoint_of

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = (f"00-{TRACE}-{PARENT}-{flags}" for flags in ("01", "00"))
USAGE = (
    b'data: {"usage":{"completion_tokens":5,"prompt_tokens":7,"total_tokens":12,'
    b'"prompt_tokens_details":{"cached_tokens":3}}}\n\n'
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as here:
        yield here


def tracer(collector: Collector, *, sample: float = 1.0) -> OpenTelemetry:
    return OpenTelemetry(endpoint_of(collector.url), sample=sample, scheme="http")


async def stream(asked: Asked) -> None:
    """Answer with a stream of two events."""
    asked.writer.write(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n"))
    for event in (b"data: {}\n\n", USAGE):
        asked.writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await asked.writer.drain()
    asked.writer.write(b"0\r\n\r\n")


def post(*headers: str, body: bytes = b"{}", path: str = "/v1/chat/completions") -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return request(path=path, body=body, headers=lines, close=False)


@contextmanager
def traced(here: Rig, by: OpenTelemetry) -> Iterator[None]:
    """Requests have spans, which are handed over at the end."""
    with closing(by) as here.front.desk.tracer:
        yield
        here.front.desk.ledger.write_down()


async def answers(here: Rig, *asked: bytes) -> None:
    """Ask one after another on one connection, and read each answer, which is `say_hi`'s."""
    async with here.connect() as (reader, writer):
        for each in asked:
            writer.write(each)
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\nhi"), 10)


def passed_on(here: Rig) -> list[str | None]:
    """The `traceparent` that the engine got with each request."""
    names = []
    for asked in here.engine.asked:
        lines = [line for line in asked.head.decode().split("\r\n") if line.startswith("traceparent: ")]
        assert len(lines) <= 1
        names.append(lines[0].removeprefix("traceparent: ") if lines else None)
    return names


def names(here: Rig, spans: list[Got]) -> bool:
    """Whether the requests that the engine got name these spans, one each, as sampled."""
    parts = [name.split("-") for name in passed_on(here) if name]
    assert all(int(flags, 16) & 1 for *_, flags in parts)
    return [(trace, parent) for _, trace, parent, _ in parts] == [(span.trace, span.id) for span in spans]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of traces, by us or by the SDK."""
    return [
        record.getMessage() for record in caplog.records if record.name.endswith("otel") or "telemetry" in record.name
    ]


async def test_a_stream_is_a_span_with_its_phases(short_dir: Path, collector: Collector) -> None:
    async with rig(short_dir, stream) as here:
        before_ns = time.time_ns()
        with traced(here, tracer(collector)):
            await here.ask(request(path="/v1/chat/completions", body=b"{}"))
    (span,) = collector.requests()
    assert (span.name, span.parent, span.status) == ("POST /v1/chat/completions", "", UNSET)
    assert span.said == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "runner.request_id": "r1",
        "runner.key.id": "anyone",
        "runner.outcome": "answered",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama.cpp",
        "gen_ai.request.model": "demo",
        "gen_ai.response.model": "demo",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "runner.usage.estimated": False,
    }
    queue, engine, streamed = collector.children(span)
    assert [each.name for each in (queue, engine, streamed)] == ["queue", "engine", "stream"]
    assert {each.kind for each in (queue, engine, streamed)} == {INTERNAL}
    assert {each.trace for each in (queue, engine, streamed)} == {span.trace}
    assert before_ns < span.began_ns == queue.began_ns < queue.ended_ns == engine.began_ns
    assert (
        engine.began_ns < engine.ended_ns == streamed.began_ns < streamed.ended_ns == span.ended_ns < time.time_ns()
    )
    assert set(collector.paths) == {"/v1/traces"}
    assert span.resource["service.name"] == "runner-supervisor"


async def test_a_request_belongs_to_its_clients_trace_and_the_engine_to_the_requests(
    short_dir: Path, collector: Collector
) -> None:
    async with rig(short_dir) as here:
        with traced(here, tracer(collector, sample=0.0)):
            await answers(here, post(f"Traceparent: {SAMPLED}", "Tracestate: a=1", "tracestate: b=2"))
    (span,) = collector.requests()
    assert (span.trace, span.parent) == (TRACE, PARENT)
    assert names(here, [span])
    assert b"\r\ntracestate: a=1,b=2\r\n" in here.engine.asked[0].head


async def test_long_bodies_and_none_go_on_with_a_name_too(short_dir: Path, collector: Collector) -> None:
    long = b'{"prompt":"%b"}' % (b"x" * 100_000)
    async with rig(short_dir, max_body_bytes=1 << 20) as here:
        with traced(here, tracer(collector)):
            listing = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
            await answers(here, post(body=long), listing)
    assert [asked.body for asked in here.engine.asked] == [long, b""]
    completion, models = collector.requests()
    assert names(here, [completion, models])
    assert (models.name, collector.children(models)) == ("GET /v1/models", [])


async def test_what_its_client_does_not_sample_is_not_sampled(short_dir: Path, collector: Collector) -> None:
    async with rig(short_dir) as here:
        with traced(here, tracer(collector)):
            await answers(here, post(f"traceparent: {NOT_SAMPLED}"))
    (passed,) = passed_on(here)
    assert passed
    assert passed.startswith(f"00-{TRACE}-")
    assert passed.endswith("-00")
    assert PARENT not in passed
    assert collector.spans == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["traceparent: nonsense"],
        [f"traceparent: {SAMPLED}", f"traceparent: {SAMPLED}"],
        [f"traceparent: ff-{TRACE}-{PARENT}-01"],
        [f"traceparent: 00-{'0' * 32}-{PARENT}-01"],
        ["tracestate: a=1"],
    ],
    ids=["nonsense", "two", "version", "zeros", "state alone"],
)
async def test_what_names_no_span_begins_a_trace_of_its_own(
    short_dir: Path, collector: Collector, wrong: list[str]
) -> None:
    async with rig(short_dir) as here:
        with traced(here, tracer(collector)):
            await answers(here, post(*wrong))
    (span,) = collector.requests()
    assert span.parent == ""
    assert names(here, [span])
    assert span.trace != TRACE
    assert b"tracestate" not in here.engine.asked[0].head


async def test_more_state_than_must_be_passed_on_is_not(short_dir: Path, collector: Collector) -> None:
    async with rig(short_dir) as here:
        with traced(here, tracer(collector)):
            await answers(
                here, post(f"traceparent: {SAMPLED}", f"tracestate: a={'x' * 250},b={'y' * 250},c=longer-yet")
            )
    assert [span.parent for span in collector.requests()] == [PARENT]
    assert b"tracestate" not in here.engine.asked[0].head


async def test_requests_on_one_connection_keep_their_traces_apart(
    short_dir: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Headers] = []
    real = Heads.read

    def reading(
        self: Heads, parser: httptools.HttpRequestParser, url: bytes, headers: Headers, *, trusted: bool
    ) -> Reading:
        read.append(list(headers))
        return real(self, parser, url, headers, trusted=trusted)

    monkeypatch.setattr(Heads, "read", reading)
    one, other = (post(f"traceparent: 00-{digit * 32}-{digit * 16}-01") for digit in "ab")
    async with rig(short_dir) as here:
        with traced(here, tracer(collector)):
            await answers(here, one, one, other, post(), post(), one)
    spans = collector.requests()
    assert [span.parent for span in spans] == ["a" * 16, "a" * 16, "b" * 16, "", "", "a" * 16]
    assert len({span.id for span in spans}) == 6
    assert len({span.trace for span in spans}) == 4
    assert names(here, spans)
    assert len(read) == 4, "heads that came again, byte for byte, are recognised"
    assert len({tuple(headers) for headers in read}) == 1, "what is remembered of a head knows no trace"


async def test_without_tracing_the_context_goes_on_as_it_is(short_dir: Path) -> None:
    async with rig(short_dir) as here:
        await answers(here, post(f"traceparent: {SAMPLED}", "tracestate: a=1"), post())
    assert passed_on(here) == [SAMPLED, None]
    assert b"\r\ntracestate: a=1\r\n" in here.engine.asked[0].head


async def test_a_refusal_is_a_span_without_phases_and_no_fault_of_ours(short_dir: Path, collector: Collector) -> None:
    async with rig(short_dir, keys=["a-key"]) as here:
        with traced(here, tracer(collector)):
            await here.ask(request(path="/v1/chat/completions", body=b"{}"))
            await here.ask(request(path="/secret-path", headers="authorization: Bearer a-key\r\n"))
    shut, unknown = collector.requests()
    assert (shut.said["runner.outcome"], shut.said["http.response.status_code"]) == ("refused:invalid_api_key", 401)
    assert (shut.status, "error.type" in shut.said, collector.children(shut)) == (UNSET, False, [])
    assert (unknown.name, "http.route" in unknown.said) == ("POST", False)
    assert not [body for body in collector.bodies if b"secret-path" in body]


async def test_an_answer_that_breaks_off_is_a_fault(short_dir: Path, collector: Collector) -> None:
    async def break_off(asked: Asked) -> None:
        asked.writer.write(CHUNKED + b"5\r\nhello\r\n")
        await asked.writer.drain()
        asked.writer.transport.abort()

    async with rig(short_dir, break_off) as here:
        with traced(here, tracer(collector)):
            await here.ask(request(path="/v1/completions", body=b"{}"))
    (span,) = collector.requests()
    assert (span.status, span.said["error.type"], span.said["http.response.status_code"]) == (ERROR, "broken", 200)


async def test_no_engine_is_a_fault(short_dir: Path, collector: Collector) -> None:
    async with rig(short_dir) as here:
        here.change(State.FAILED)
        with traced(here, tracer(collector)):
            await here.ask(request(path="/v1/completions", body=b"{}"))
    (span,) = collector.requests()
    assert (span.status, span.said["error.type"]) == (ERROR, "engine_failed")


async def test_what_is_said_is_not_in_spans(short_dir: Path, collector: Collector) -> None:
    async with rig(short_dir, stream, keys=["secret-key"]) as here:
        with traced(here, tracer(collector)):
            headers = "authorization: Bearer secret-key\r\nuser-agent: zebra-agent\r\n"
            body = b'{"prompt":"zebra-prompt","model":"zebra-model"}'
            await here.ask(request(path="/v1/completions?q=zebra-query", body=body, headers=headers))
    assert collector.requests()
    assert not [body for body in collector.bodies if b"zebra" in body or b"secret-key" in body]


async def test_a_collector_that_keeps_us_waiting_delays_neither_requests_nor_the_end(
    short_dir: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    collector.answers.clear()
    async with rig(short_dir) as here:
        here.front.desk.tracer = waiting = tracer(collector)
        async with asyncio.timeout(10):
            await answers(here, *[post()] * 50)
        here.front.desk.ledger.write_down()
        began_s = time.monotonic()
        waiting.close(within_s=0.1)
        assert time.monotonic() - began_s < 5
    assert len(here.engine.asked) == 50
    assert told(caplog) == ["the last traces could not be handed over within 0.1 s"]


async def test_a_collector_that_is_gone_is_told_of_once_until_it_is_back(
    short_dir: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    caplog.set_level(logging.INFO)

    async def ask_until(lines: int) -> None:
        async with asyncio.timeout(20):
            while len(told(caplog)) < lines:
                await answers(here, post())

    async with rig(short_dir, say_hi) as here:
        with traced(here, tracer(collector)):
            collector.status = 403
            await ask_until(1)
            refused = len(collector.paths)
            async with asyncio.timeout(20):
                while len(collector.paths) < refused + 3:
                    await answers(here, post())
            assert len(told(caplog)) == 1
            collector.status = 200
            await ask_until(2)
    gone, back = told(caplog)
    assert gone.startswith(f"traces do not get to {collector.url}/v1/traces, and are lost until they do: ")
    assert "403" in gone
    assert back == f"traces get to {collector.url}/v1/traces again"


async def test_nobody_at_the_collectors_address_is_told_of_too(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")  # so that it is not tried again
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with rig(short_dir) as here:
            with traced(here, OpenTelemetry(endpoint_of(url), sample=1.0, scheme="http")):
                await answers(here, post())
    (line,) = told(caplog)
    assert line.startswith(f"traces do not get to {url}/v1/traces")
