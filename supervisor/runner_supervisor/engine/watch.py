"""Watches one child: until it is READY, and then whether it gets anywhere. Tells what it saw as events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runner_supervisor.core.health import Marks, Progress, Sight
from runner_supervisor.core.lifecycle import Answered, Event, Policy, Stalled
from runner_supervisor.engine.logs import RunLog
from runner_supervisor.engine.probe import Health, Probe
from runner_supervisor.engine.process import Child
from runner_supervisor.engine.report import write_report

PROBE_S = 0.05
LOOK_S = 1.0
ANSWER_S = 0.5
"""After how long a question counts as not answered so far, in seconds."""

METRICS_S = 2.0
"""How often llama-server's metrics are asked for, in seconds: each question delays its notice of clients that left
(tools/server/server-queue.cpp:450-471)."""

LOAD_BYTES = 1024 * 1024
WORK_BYTES = 16 * 1024 * 1024
"""By how much memory must move to be a sign of a load, and of work: a server that wakes up loads its model again."""

REFUSALS = 3
"""As many questions in a row that find nobody listening mean that its socket has gone."""

REPORT_LINES = 500


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the front sees of an engine: how many requests wait for more of their answers, and how many pieces of
    answers it has sent.
    """

    busy: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class Scrape:
    """llama-server's metrics, as Prometheus text and one by one, and when they were had, in monotonic seconds."""

    at: float
    text: str
    gauges: Mapping[str, float]


class Watch:
    """Looks at one generation's process and posts `Answered` and `Stalled`."""

    def __init__(
        self,
        *,
        generation: int,
        child: Child,
        socket: Path,
        log: RunLog,
        policy: Callable[[], Policy],
        reports: Path,
        traffic: Callable[[], Traffic],
        post: Callable[[Event], None],
    ) -> None:
        self.scrape: Scrape | None = None
        self._asked_at: float | None = None
        self._traffic = traffic
        self._generation = generation
        self._child = child
        self._socket = socket
        self._log = log
        self._policy = policy
        self._reports = reports
        self._post = post

    async def run(self) -> None:
        """Watch until cancelled, or until it has come to nothing."""
        async with Probe(self._socket) as probe:
            stalled = await self._until_ready(probe) or await self._while_ready(probe)
            listens = probe.refusals < REFUSALS
            seen = f"no sign of progress for {stalled.still_s:.0f} s" if listens else "nobody listens on its socket"
            slots = await probe.slot_states() if stalled.last.answered else None
            report = write_report(self._reports, self._child, slots, self._log.tail(REPORT_LINES), reason=seen)
            self._post(Stalled(self._generation, f"{seen}; see {report}" if report else seen))

    async def _until_ready(self, probe: Probe) -> Progress | None:
        """None once it is READY; else what it has shown, which is nothing for too long."""
        progress = Progress(self._sight_of_load())
        while True:
            limit_s = self._policy().load_timeout_s
            match await probe.health():
                case Health.READY if slots := await probe.slots():
                    self._post(Answered(self._generation, ready=True, slots=slots))
                    return None
                case Health.LOADING:
                    self._post(Answered(self._generation, ready=False))
            await asyncio.sleep(PROBE_S)
            if time.monotonic() - progress.last.at >= min(LOOK_S, limit_s):
                progress = progress.look(self._sight_of_load())
                if progress.left_s(limit_s) <= 0:
                    return progress

    def _sight_of_load(self) -> Sight:
        marks = (float(self._log.lines), float(self._child.rss_bytes // LOAD_BYTES))
        cpu_s = self._child.cpu_s(main_thread=False)
        return Sight(time.monotonic(), answered=True, busy=True, elsewhere=False, marks=marks, cpu_s=cpu_s)

    async def _while_ready(self, probe: Probe) -> Progress:
        """Ends when it has shown nothing for too long."""
        scraper = asyncio.create_task(self._scrape(probe))
        try:
            progress = Progress(self._sight_of_work())
            while (left_s := progress.left_s(self._policy().stall_timeout_s)) > 0 and probe.refusals < REFUSALS:
                await asyncio.wait({scraper}, timeout=min(LOOK_S, left_s))
                if scraper.done():
                    scraper.result()  # it ends by a fault of ours alone
                progress = progress.look(self._sight_of_work())
        finally:
            scraper.cancel()
        return progress

    async def _scrape(self, probe: Probe) -> NoReturn:
        """Ask for its metrics, again and again. They come from the main thread, or, while that computes, from
        another (tools/server/server-queue.cpp, `yield_to_queue`): no answer means that neither lives.
        """
        while True:
            if self._asked_at is None:  # else a question is open already, and stays so until there is an answer
                self._asked_at = time.monotonic()
            text = await probe.metrics()
            if text is not None:
                self.scrape = Scrape(time.monotonic(), text, _gauges(text))
                self._asked_at = None
            await asyncio.sleep(METRICS_S)

    def _sight_of_work(self) -> Sight:
        now = time.monotonic()
        traffic = self._traffic()
        gauges = self.scrape.gauges if self.scrape else {}
        marks: Marks = (gauges.get("llamacpp:n_decode_total"), gauges.get("llamacpp:prompt_tokens_total"))
        computing = bool(gauges.get("llamacpp:requests_processing"))
        return Sight(
            now,
            answered=self._asked_at is None or now - self._asked_at < ANSWER_S,
            busy=computing or traffic.busy > 0,
            elsewhere=not computing,
            marks=(*marks, float(traffic.received), float(self._child.rss_bytes // WORK_BYTES)),
            cpu_s=self._child.cpu_s(main_thread=True),
        )


def _gauges(text: str) -> dict[str, float]:
    """The samples of llama-server's metrics, none of which has labels (tools/server/server-task.cpp:1523-1613)."""
    pairs = (line.rpartition(" ") for line in text.splitlines() if line.startswith("llamacpp:"))
    return {name: float(value) for name, _, value in pairs}
