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
from runner_supervisor.front.tls import Certificate
from runner_supervisor.front.traces import Tracer
from runner_supervisor.front.visit import Desk
from runner_supervisor.keys.limiter import shared_limits
from runner_supervisor.keys.limits import Limiter, LocalLimits
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.keys.usage import UsageBook, keep
from runner_supervisor.layout import Layout
from runner_supervisor.settings import Settings

REFRESH_S = 0.25
"""How often keys and the certificate are looked at for changes by others, in seconds."""


class Reception:
    """The front's `desk`, and what has to be done for it all the time."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        keys: KeyStore,
        *,
        certificate: Certificate | None,
        audit: AuditLog | None,
        contents: ContentLog | None,
        tracer: Tracer | None,
    ) -> None:
        """Read what keys have used so far.

        Raises:
            ConfigError: the file with that, or the Redis server's URL, is wrong.
        """
        self._keys = keys
        self._certificate = certificate
        self._local = LocalLimits()
        self._book = UsageBook(layout.usage)
        self._local.restore(self._book.load())
        url = settings.limits_url
        self._shared = shared_limits(url.get_secret_value(), self._local) if url else None
        limiter: Limiter = self._shared or self._local
        self.desk = Desk(
            limiter=limiter,
            audit=audit,
            contents=contents,
            strikes=Strikes(clock=time.monotonic),
            proxies=Proxies(settings.trusted_proxies),
            ids=RequestIds(),
            tracer=tracer,
        )

    async def run(self) -> None:
        """Keep keys, limits and certificate current until cancelled; then write down what keys have used."""
        keeper = asyncio.create_task(keep(self._local, self._book), name="usage")
        tasks = {asyncio.create_task(self._watch(), name="keys")}
        if self._shared:
            tasks.add(asyncio.create_task(self._shared.run(), name="limits"))
        try:
            done, _ = await asyncio.wait({keeper, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # requests that waited for shared limits are decided by this supervisor's own
            self.desk.ledger.write_down()
            keeper.cancel()
            await asyncio.wait({keeper})

    def close(self) -> None:
        """Write down what has ended, and close the file of what keys have used."""
        self.desk.ledger.write_down()
        self._book.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self._keys.refresh()
            if self._certificate:
                self._certificate.refresh()


@contextlib.contextmanager
def reception(
    settings: Settings, layout: Layout, keys: KeyStore, certificate: Certificate | None, tracer: Tracer | None
) -> Iterator[Reception]:
    """The reception of one run, with its files open.

    Raises:
        ConfigError: a file cannot be had, or is not ours alone.
    """
    with contextlib.ExitStack() as stack:
        audit = contents = None
        if settings.audit:
            audit = AuditLog(layout.audit_log)
            stack.callback(audit.close)
        if settings.log_content and settings.content_log:
            contents = ContentLog(settings.content_log)
            stack.callback(contents.close)
        behind = Reception(
            settings, layout, keys, certificate=certificate, audit=audit, contents=contents, tracer=tracer
        )
        stack.callback(behind.close)
        yield behind
