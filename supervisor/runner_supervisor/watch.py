"""Follows a running supervisor, over restarts, and keeps what it said last: what `status --watch` shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from runner_supervisor.errors import RunnerError
from runner_supervisor.front.pages.history import KEPT_S, Sample
from runner_supervisor.remote import Event, Remote

RETRY_S = 1.0
KEPT_LINES = 200
LOST = "lost"
"""The name of the event that we tell ourselves: there is no supervisor to hear of. Its data is why."""

RESTARTED = "the supervisor was restarted"


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a service.

    `run`, `version`: of its supervisor. `now`: the last snapshot (front/pages/snapshot.py); None before the first.
    `samples`: the last quarter of an hour, oldest first. `lines`: the last of both logs. `lost`: why nothing more is
    heard of it; "" while something is. `notice`: what else has to be said.
    """

    run: str = ""
    version: str = ""
    now: dict[str, Any] | None = None
    samples: tuple[Sample, ...] = ()
    lines: tuple[dict[str, Any], ...] = ()
    lost: str = ""
    notice: str = ""

    def after(self, event: Event) -> View:
        """What is known once this was heard as well."""
        match event.name:
            case "hello":
                greeting = event.data
                restarted = bool(self.run) and greeting["run"] != self.run
                return replace(
                    self,
                    run=greeting["run"],
                    version=greeting["version"],
                    samples=tuple(map(Sample._make, zip(*greeting["history"], strict=True))),
                    lost="",
                    notice=RESTARTED if restarted else self.notice,
                )
            case "now":
                sample = Sample._make(event.data["sample"])
                known = self.samples if not self.samples or self.samples[-1].at < sample.at else self.samples[:-1]
                return replace(self, now=event.data, samples=(*known, sample)[-KEPT_S:])
            case "log":
                return replace(self, lines=(*self.lines, *event.data)[-KEPT_LINES:])
            case "lost":
                return replace(self, lost=event.data)
        return self


def follow(remote: Remote, *, pause: Callable[[float], None] = time.sleep) -> Iterator[Event]:
    """All that a supervisor tells, and after its end what the next one on that state folder does, without an end.

    Raises:
        RunnerError: it could not be heard at all; afterwards a `lost` event says why.
    """
    last_id = ""
    while True:
        why = "the supervisor has ended"
        try:
            for event in remote.events(last_id=last_id):
                last_id = event.id
                yield event
        except RunnerError as error:
            if not last_id:
                raise
            why = str(error)
        yield Event(LOST, last_id, why)
        pause(RETRY_S)
