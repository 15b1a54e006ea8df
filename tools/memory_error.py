"""How far is the memory estimate from what llama-server really takes? Measured on models of several shapes.

For each shape a model file is made, the real llama-server is started on it as the supervisor would, every slot is
given more than a full batch to read and some tokens to write, and the process's resident set is compared with
the estimate. docs/memory.md has the table this prints.

Usage: python -m tools.memory_error [--small] [--items]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import gguf
import httpx
import psutil

from runner_supervisor.core.demand import demand_of
from runner_supervisor.core.memory import MIB, Estimate, context_of, estimate
from runner_supervisor.engine.command import engine_argv, engine_environment
from runner_supervisor.engine.gguf import read_shape
from runner_supervisor.engine.memory import cpu_features
from tools.demo_model.make import DEMO, Blueprint, write

READY_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 300.0
POLL_S = 0.02
WRITTEN_TOKENS = 16
READ_TOKENS = 2048
"""How much of its context a slot reads at most: filling a long one takes minutes."""

Kind = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Case:
    """One model and the flags llama-server gets for it."""

    name: str
    blueprint: Blueprint
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What was estimated and what was found."""

    case: Case
    estimate: Estimate
    rss_bytes: int
    log: str = field(repr=False)

    @property
    def error(self) -> float:
        """The estimate's error, as a share of what was found."""
        return self.estimate.host_bytes / self.rss_bytes - 1


SMALL = (
    Case("demo size, defaults", DEMO, ("-c", "4096")),
    Case(
        "GQA, f16",
        Blueprint(embedding=512, feed_forward=1536, layers=12, heads=8, kv_heads=2, head=64, kind=Kind.F16),
        ("-c", "4096"),
    ),
    Case(
        "MHA, f32",
        Blueprint(embedding=512, feed_forward=1024, layers=8, heads=8, kv_heads=8, head=64),
        ("-c", "4096", "-np", "2"),
    ),
    Case(
        "large vocabulary, tied, q4_0",
        Blueprint(embedding=256, layers=2, head=64, tokens=128_000, merges=128_000, tied=True, kind=Kind.Q4_0),
        ("-c", "2048", "-np", "1"),
    ),
    Case(
        "long context, q8_0, cache too",
        Blueprint(embedding=256, layers=8, heads=8, kv_heads=8, head=128, kind=Kind.Q8_0),
        ("-c", "16384", "-ctk", "q8_0", "-ctv", "q8_0", "-np", "1"),
    ),
    Case(
        "experts, q4_K",
        Blueprint(
            embedding=512, feed_forward=512, layers=6, heads=8, kv_heads=4, head=64, experts=8, experts_used=2,
            kind=Kind.Q4_K,
        ),
        ("-c", "4096", "-ub", "256"),
    ),
    Case(
        "sliding window, q4_0",
        Blueprint(
            architecture="gemma3", embedding=512, feed_forward=2048, layers=12, heads=4, kv_heads=4, head=256,
            window=512, kind=Kind.Q4_0,
        ),
        ("-c", "8192", "-np", "2"),
    ),
    Case(
        "4 slots with caches of their own, q6_K",
        Blueprint(embedding=512, feed_forward=1024, layers=6, heads=8, kv_heads=8, head=64, kind=Kind.Q6_K),
        ("-c", "8192", "-np", "4"),
    ),
)  # fmt: skip

GQA = Blueprint(embedding=512, feed_forward=1536, layers=12, heads=8, kv_heads=2, head=64, kind=Kind.Q8_0)

LARGE = (
    Case("GQA, q4_0, file read, not mapped", replace(GQA, kind=Kind.Q4_0), ("-c", "4096", "--load-mode", "none")),
    Case("GQA, q8_0, without flash attention", GQA, ("-c", "2048", "-fa", "off", "-np", "1")),
    Case("GQA, q4_K, 8 slots", replace(GQA, kind=Kind.Q4_K), ("-c", "8192", "-np", "8")),
    Case(
        "GQA, f16, 400 MB",
        Blueprint(embedding=1024, feed_forward=3072, layers=16, heads=16, kv_heads=4, head=64, kind=Kind.F16,
                  tokens=32_000),
        ("-c", "8192"),
    ),
    Case(
        "0.6 B as Qwen3, q4_0, 150k vocabulary",
        Blueprint(embedding=1024, feed_forward=3072, layers=28, heads=16, kv_heads=8, head=128, kind=Kind.Q4_0,
                  tokens=151_936, merges=151_387, tied=True),
        ("-c", "16384", "-np", "2"),
    ),
    Case(
        "long context, q8_0, KV dominates",
        Blueprint(embedding=512, feed_forward=1024, layers=16, heads=16, kv_heads=16, head=128, kind=Kind.Q8_0,
                  context_tokens=131_072),
        ("-c", "16384", "-np", "1"),
    ),
    Case(
        "GQA, f16, ubatch 2048",
        Blueprint(embedding=1024, feed_forward=4096, layers=8, heads=16, kv_heads=4, head=64, kind=Kind.F16),
        ("-c", "8192", "-ub", "2048", "-np", "1"),
    ),
)  # fmt: skip


def binary() -> Path:
    """The llama-server to measure, built first if it is not there."""
    command = [sys.executable, "-m", "runner_supervisor", "build", "--reuse", "--print-manifest"]
    manifest = Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    return manifest.parent / str(json.loads(manifest.read_text())["binary"])


def measure(server: Path, case: Case, folder: Path, *, verbose: bool = False) -> Measured:
    """Make the model of `case` in `folder`, run `server` on it, use it, and compare."""
    model, socket = folder / "model.gguf", folder / "engine.sock"
    write(model, case.blueprint)
    shape = read_shape(model)
    demand = demand_of(case.flags, cpu=cpu_features())
    flags = ("--cache-ram", "0", *case.flags, *(("-lv", "4") if verbose else ()))
    with _running(server, model, socket, folder / "log", flags) as process:
        total, per_slot = context_of(shape, demand)
        share = total // demand.parallel if demand.kv_unified else per_slot
        _use(socket, demand.parallel, min(max(READ_TOKENS, demand.ubatch) + shape.window, share - 2 * WRITTEN_TOKENS))
        rss_bytes = psutil.Process(process.pid).memory_info().rss
    model.unlink()
    return Measured(case, estimate(shape, demand), rss_bytes, (folder / "log").read_text(errors="replace"))


@contextmanager
def _running(
    server: Path, model: Path, socket: Path, log: Path, flags: tuple[str, ...]
) -> Iterator[subprocess.Popen[bytes]]:
    argv = engine_argv(binary=server, model=model, socket=socket, extra=flags)
    with (
        log.open("wb") as out,
        subprocess.Popen(argv, stdout=out, stderr=out, env=engine_environment(os.environ)) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
    socket.unlink(missing_ok=True)


def _client(socket: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine", timeout=ANSWER_TIMEOUT_S
    )


def _use(socket: Path, slots: int, read_tokens: int) -> None:
    """Let every slot read and write, all at once."""
    prompt = [300 + number % 200 for number in range(read_tokens)]
    with _client(socket) as client, ThreadPoolExecutor(slots) as pool:
        _wait_ready(client)

        def complete(slot: int) -> None:
            body = {"prompt": prompt, "n_predict": WRITTEN_TOKENS, "id_slot": slot, "ignore_eos": True}
            client.post("/completion", json=body).raise_for_status()

        list(pool.map(complete, range(slots)))


def _wait_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            sys.exit("llama-server did not become ready")
        time.sleep(POLL_S)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.memory_error")
    parser.add_argument("--small", action="store_true", help="only the shapes the tests measure")
    parser.add_argument("--items", action="store_true", help="print each estimate line by line")
    parser.add_argument("--log", action="store_true", help="print what llama-server says of its buffers")
    parser.add_argument("--only", default="", help="only shapes whose name contains this")
    options = parser.parse_args()
    server = binary()
    print("| shape | estimate | real RSS | error |\n|---|---:|---:|---:|")
    for case in SMALL if options.small else SMALL + LARGE:
        if options.only not in case.name:
            continue
        with tempfile.TemporaryDirectory(prefix="rs-memory-") as folder:
            found = measure(server, case, Path(folder), verbose=options.log)
        sizes = f"{found.estimate.host_bytes / MIB:.0f} MiB | {found.rss_bytes / MIB:.0f} MiB"
        print(f"| {case.name} | {sizes} | {100 * found.error:+.1f} % |", flush=True)
        for item in found.estimate.items if options.items else ():
            print(f"    {item.name:20} {item.size_bytes / MIB:9.2f} MiB  {item.how}")
        for line in found.log.splitlines() if options.log else ():
            if "buffer size" in line or "n_ctx_seq " in line or "checkpoint" in line:
                print("    > " + line)


if __name__ == "__main__":
    main()
