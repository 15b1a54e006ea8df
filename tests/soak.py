"""A long run of everything at once: `make soak MINUTES=24`.

Short requests and streams without pause, while llama-server is killed, stopped and replaced in turn. At the end
the ledger: what was sent, answered, sent again, broken with notice and lost, which must be nothing; memory and open
files of the supervisor at the start and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import psutil
from tests.e2e.conftest import COMMAND, Supervisor
from tests.ledger import Ledger, Load, short, stream

SETTINGS = {
    "RUNNER_STALL_TIMEOUT_S": "2",
    "RUNNER_BREAKER_DEATHS": "100000",
    "RUNNER_BACKOFF_CAP_S": "0.5",
    "RUNNER_QUEUE_TIMEOUT_S": "80",
}
ARGUMENTS = ("--", "--threads", "1", "--parallel", "8")
SHORT_CLIENTS = 6
STREAM_CLIENTS = 4
STREAM_TOKENS = 2000
BETWEEN_FAULTS_S = 5.0
RECOVERY_S = 30.0

Fault = Callable[[Supervisor], None]


def kill(service: Supervisor) -> None:
    """llama-server dies at once."""
    engine_of(service).kill()


def freeze(service: Supervisor) -> None:
    """llama-server stops and says nothing."""
    engine_of(service).suspend()


def restart(service: Supervisor) -> None:
    """Somebody asks for a new one."""
    command = [*COMMAND, "restart", "--state-dir", str(service.state_dir)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=RECOVERY_S)


FAULTS: tuple[Fault, ...] = (kill, restart, freeze, kill)


def engine_of(service: Supervisor) -> psutil.Process:
    """The llama-server that serves."""
    return psutil.Process(service.engine_pid)


def measure(service: Supervisor) -> tuple[float, int]:
    """The supervisor's resident memory, in MiB, and its open files."""
    process = psutil.Process(service.process.pid)
    return process.memory_info().rss / 2**20, process.num_fds()


def retried(service: Supervisor) -> int:
    """How many requests the front has sent again."""
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    counts = [line.split()[-1] for line in lines if line.startswith("runner_requests_retried_total{")]
    return sum(int(float(count)) for count in counts)


async def ready(service: Supervisor, *, other_than: int) -> None:
    """Wait until another llama-server serves."""
    async with asyncio.timeout(RECOVERY_S):
        while True:
            engine = (await asyncio.to_thread(service.status))["engine"]
            if engine["state"] == "ready" and engine["pid"] != other_than:
                return


async def soak(service: Supervisor, *, minutes: float) -> Ledger:
    """Load and faults for so many minutes."""
    load = Load(service.url)
    load.one_after_another(short, clients=SHORT_CLIENTS)
    load.one_after_another(partial(stream, tokens=STREAM_TOKENS), clients=STREAM_CLIENTS)
    end = time.monotonic() + 60 * minutes
    await load.settled(50)
    began = await asyncio.to_thread(measure, service)
    for count, fault in enumerate(itertools.cycle(FAULTS), start=1):
        if time.monotonic() > end:
            break
        before = await asyncio.to_thread(lambda: service.engine_pid)
        await asyncio.to_thread(fault, service)
        await ready(service, other_than=before)
        await asyncio.sleep(max(0.0, min(BETWEEN_FAULTS_S, end - time.monotonic())))
        print(f"{count} faults; {load.ledger}", flush=True)
    ledger = await load.finish()
    ended = await asyncio.to_thread(measure, service)
    print(f"requests: {ledger}, sent again {await asyncio.to_thread(retried, service)}")
    print(f"supervisor at the start: {began[0]:.0f} MiB, {began[1]} open files")
    print(f"supervisor at the end:   {ended[0]:.0f} MiB, {ended[1]} open files")
    return ledger


def main() -> None:
    """Run the soak on a supervisor of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=24.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        environment = {**os.environ, **SETTINGS}
        with Supervisor(Path(folder) / "state", *ARGUMENTS, environment=environment) as service:
            ledger = asyncio.run(soak(service.wait_ready(), minutes=minutes))
    for seen in ledger.lost[:10]:
        print(f"lost: {seen}")
    sys.exit(bool(ledger.lost))


if __name__ == "__main__":
    main()
