"""`python -m bench`: the front beside nginx, the naive proxy and the engine itself; interleaved rounds, medians.

Ratios within one run are what counts: the machine is whatever it is, and its noise is stated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import load
from bench.targets import LOAD_CORE, Target, all_targets, processor

Measure = Callable[[Target], dict[str, float]]

SMALL_S = 3.0
BODY_8_MB = b'{"prompt":"' + b"z" * (8 << 20) + b'"}'


def microseconds(times_s: list[float], quantile: float) -> float:
    """A quantile of times, in microseconds."""
    ordered = sorted(times_s)
    return 1e6 * ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def w1_one(target: Target) -> dict[str, float]:
    """W1, one connection: latency of short requests."""
    result = load.small(target.port, connections=1, duration_s=SMALL_S)
    return {"p50_us": microseconds(result.times_s, 0.5), "p99_us": microseconds(result.times_s, 0.99)}


def w1_many(target: Target) -> dict[str, float]:
    """W1, 32 connections: short requests a second."""
    result = load.small(target.port, connections=32, duration_s=SMALL_S)
    return {"requests_per_s": len(result.times_s) / result.elapsed_s}


def w2(target: Target) -> dict[str, float]:
    """W2: 64 streams of 200 events, 20 ms apart: time to the first, and CPU for each."""
    before = target.cpu_s()
    result = load.streams(target.port, count=64, chunks=200, delay_ms=20, rounds=2, spread_s=4.0)
    cpu_s = target.cpu_s() - before
    return {
        "ttft_p50_us": microseconds(result.times_s, 0.5),
        "ttft_p99_us": microseconds(result.times_s, 0.99),
        "cpu_us_per_chunk": 1e6 * cpu_s / result.chunks,
    }


def w3(target: Target) -> dict[str, float]:
    """W3: 16 streams flat out: events a second."""
    chunks = 1_000 if target.name == "naive" else 20_000
    result = load.streams(target.port, count=16, chunks=chunks, delay_ms=0)
    return {"chunks_per_s": result.chunks / result.elapsed_s}


def w4(target: Target) -> dict[str, float]:
    """W4: resident memory with 256 quiet streams open."""
    peers = load.hold(target.port, count=256)
    resident = target.resident_bytes()
    for peer in peers:
        peer.close()
    return {"resident_mb": resident / 1e6}


def w6(target: Target) -> dict[str, float]:
    """W6: a body of 8 MB."""
    result = load.small(target.port, connections=1, duration_s=SMALL_S, body=BODY_8_MB)
    return {"p50_us": microseconds(result.times_s, 0.5)}


WORKLOADS: dict[str, Measure] = {"w1_1": w1_one, "w1_32": w1_many, "w2": w2, "w3": w3, "w4": w4, "w6": w6}


def measure(rounds: int, names: list[str]) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Every workload on every target, round by round: workload → target → one figure set a round."""
    os.sched_setaffinity(0, {LOAD_CORE})
    figures: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory(prefix="rs-bench-") as folder, all_targets(Path(folder)) as targets:
        for number in range(rounds):
            for name in names:
                for target in targets:
                    print(f"round {number + 1}/{rounds}: {name} {target.name}", file=sys.stderr)
                    figures[name].setdefault(target.name, []).append(WORKLOADS[name](target))
    return figures


def medians(figures: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """The median of the rounds: workload → figure → target."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, by_target in figures.items():
        for target, rounds in by_target.items():
            for figure in rounds[0]:
                value = statistics.median(each[figure] for each in rounds)
                table.setdefault(name, {}).setdefault(figure, {})[target] = value
    return table


def noise(figures: dict[str, dict[str, list[dict[str, float]]]]) -> float:
    """How far the direct rounds lie apart: the largest (max - min) / median of any of their figures."""
    spans = []
    for by_target in figures.values():
        rounds = by_target["direct"]
        for figure in rounds[0]:
            values = [each[figure] for each in rounds]
            if statistics.median(values):
                spans.append((max(values) - min(values)) / statistics.median(values))
    return max(spans)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    options = parser.parse_args()
    if (os.cpu_count() or 1) <= LOAD_CORE:
        sys.exit("the bench needs two cores: one for the proxy, one for load and engine")
    began = time.time()
    figures = measure(options.rounds, options.workloads)
    table = medians(figures)
    rendered = Table("workload", "figure", "direct", "nginx", "front", "naive", "front / nginx")
    for name, by_figure in table.items():
        for figure, by_target in by_figure.items():
            shown = [
                f"{by_target[each]:,.1f}" if each in by_target else "-"
                for each in ("direct", "nginx", "front", "naive")
            ]
            rendered.add_row(name, figure, *shown, _ratio(figure, by_target))
    Console(width=120).print(rendered)
    print(
        f"{processor()}; {options.rounds} rounds, medians; the direct rounds lie {noise(figures):.0%} apart at most"
    )
    if options.json:
        report = {"when": began, "processor": processor(), "rounds": figures, "medians": table}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _ratio(figure: str, by_target: dict[str, float]) -> str:
    if not {"nginx", "front"} <= by_target.keys():
        return "-"
    added = by_target["direct"] if figure == "p50_us" else 0.0
    what = " (added)" if added else ""
    return f"{(by_target['front'] - added) / (by_target['nginx'] - added):.2f}{what}"


if __name__ == "__main__":
    main()
