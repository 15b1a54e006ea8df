"""What stands behind the doors for one run: keys, limits, logs of who came, and the tasks that keep them current."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from runner_supervisor.front.addresses import Proxies
from runner_supervisor.front.audit import AuditLog
from runner_supervisor.front.contentlog import ContentLog
from runner_supervisor.front.requestids import RequestIds
from runner_supervisor.front.strikes import Strikes
from runner_supervisor.front.visit import Desk
from runner_supervisor.keys.limits import LocalLimits
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.layout import Layout
from runner_supervisor.settings import Settings

REFRESH_S = 0.25
"""How often other processes' changes of keys are looked for, in seconds."""


@contextlib.contextmanager
def open_desk(settings: Settings, layout: Layout) -> Iterator[Desk]:
    """The front's desk, with its files open.

    Raises:
        ConfigError: a file cannot be had.
    """
    with contextlib.ExitStack() as stack:
        audit = contents = None
        if settings.audit:
            audit = AuditLog(layout.audit_log)
            stack.callback(audit.close)
        if settings.log_content and settings.content_log:
            contents = ContentLog(settings.content_log)
            stack.callback(contents.close)
        yield Desk(
            limiter=LocalLimits(),
            audit=audit,
            contents=contents,
            strikes=Strikes(clock=time.monotonic),
            proxies=Proxies(settings.trusted_proxies),
            ids=RequestIds(),
        )


async def watch_keys(keys: KeyStore) -> None:
    """Take note of keys that are made, revoked, or expire, until cancelled."""
    while True:
        await asyncio.sleep(REFRESH_S)
        keys.refresh()
