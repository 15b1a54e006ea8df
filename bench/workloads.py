"""The workloads: what is sent, what is measured, and on which engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from bench import load
from bench.targets import Target

Figures = dict[str, float]

SMALL_S = 3.0
BODY_8_MB = b'{"prompt":"' + b"z" * (8 << 20) + b'"}'
STREAM_CHUNKS = 200
SPREAD_S = 4.0
FLAT_OUT_CHUNKS = 20_000
QUIET_STREAMS = 256
TOKENS = 64
REAL_ROUNDS = 4
REAL_BODY = json.dumps(
    {"prompt": "The sea", "max_tokens": TOKENS, "stream": True, "temperature": 0, "ignore_eos": True}
).encode()


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload. `higher`: more of its first figure is better. `real`: on the real llama-server."""

    measure: Callable[[Target], Figures]
    title: str
    higher: bool = False
    real: bool = False


def microseconds(times_s: list[float], quantile: float) -> float:
    """A quantile of times, in microseconds."""
    ordered = sorted(times_s)
    return 1e6 * ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def one_connection(target: Target) -> Figures:
    """Latency of short requests, one after the other."""
    result = load.small(target.address, connections=1, duration_s=SMALL_S)
    return {"p50_us": microseconds(result.times_s, 0.5), "p99_us": microseconds(result.times_s, 0.99)}


def many_connections(target: Target) -> Figures:
    """Short requests a second over 32 connections."""
    result = load.small(target.address, connections=32, duration_s=SMALL_S)
    return {"requests_per_s": len(result.times_s) / result.elapsed_s}


def real_time_streams(target: Target) -> Figures:
    """64 streams of 200 events, 20 ms apart: time to the first, and CPU for each."""
    before = target.cpu_s()
    ask = load.stream_request(chunks=STREAM_CHUNKS, delay_ms=20)
    result = load.streams(target.address, ask, count=64, rounds=2, spread_s=SPREAD_S)
    cpu_s = target.cpu_s() - before
    return {
        "ttft_p50_us": microseconds(result.times_s, 0.5),
        "ttft_p99_us": microseconds(result.times_s, 0.99),
        "cpu_us_per_chunk": 1e6 * cpu_s / result.chunks,
    }


def flat_out_streams(target: Target) -> Figures:
    """16 streams without a pause: events a second."""
    chunks = FLAT_OUT_CHUNKS // 20 if target.name == "naive" else FLAT_OUT_CHUNKS
    result = load.streams(target.address, load.stream_request(chunks=chunks, delay_ms=0), count=16)
    return {"chunks_per_s": result.chunks / result.elapsed_s}


def quiet_streams(target: Target) -> Figures:
    """Resident memory with 256 quiet streams open."""
    peers = load.hold(target.address, count=QUIET_STREAMS)
    resident = target.resident_bytes()
    for peer in peers:
        peer.close()
    return {"resident_mb": resident / 1e6}


def large_body(target: Target) -> Figures:
    """Latency of a request of 8 MB."""
    result = load.small(target.address, connections=1, duration_s=SMALL_S, body=BODY_8_MB)
    return {"p50_us": microseconds(result.times_s, 0.5)}


def clients(count: int) -> Callable[[Target], Figures]:
    """The real llama-server with so many clients at once: tokens a second, and time to the first."""

    def measure(target: Target) -> Figures:
        load.streams(target.address, load.request(body=REAL_BODY), count=count, fresh=True)
        result = load.streams(
            target.address, load.request(body=REAL_BODY), count=count, rounds=REAL_ROUNDS, fresh=True
        )
        return {
            "tokens_per_s": count * REAL_ROUNDS * TOKENS / result.elapsed_s,
            "ttft_p50_us": microseconds(result.times_s, 0.5),
        }

    return measure


WORKLOADS: dict[str, Workload] = {
    "w1_1": Workload(one_connection, "short requests, 1 connection"),
    "w1_32": Workload(many_connections, "short requests, 32 connections", higher=True),
    "w2": Workload(real_time_streams, "64 streams, 50 events/s each"),
    "w3": Workload(flat_out_streams, "16 streams flat out", higher=True),
    "w4": Workload(quiet_streams, "256 quiet streams"),
    "w5_1": Workload(clients(1), "llama-server, 1 client", higher=True, real=True),
    "w5_8": Workload(clients(8), "llama-server, 8 clients", higher=True, real=True),
    "w5_64": Workload(clients(64), "llama-server, 64 clients", higher=True, real=True),
    "w6": Workload(large_body, "a body of 8 MB"),
}
