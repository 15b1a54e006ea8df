"""Requests that have ended, until they are written down: some at a time, and none in the way of its client's next."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

logger = logging.getLogger(__name__)

GATHER_S: Final = 0.2
"""For how long accounts gather, in seconds."""

MOST: Final = 16
"""Of so many at once none of the next requests needs to wait for long."""


class Account(Protocol):
    """What is to be written down of one request."""

    def write_down(self) -> None:
        """Count it, and have a line of it written."""


class Ledger:
    """Collects accounts. Written down one by one, each would have to fetch all that it touches into the processor's
    caches, at the moment when the client, which has its answer, may be sending its next request.
    """

    def __init__(self) -> None:
        self._open: list[Account] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, account: Account) -> None:
        """Have an account written down soon."""
        self._open.append(account)
        if len(self._open) == 1:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.write_down)
        elif len(self._open) >= MOST:
            self.write_down()

    def write_down(self) -> None:
        """Write down what is open: for whoever wants to know now. A fault with one account costs no other one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        accounts, self._open = self._open, []
        for account in accounts:
            try:
                account.write_down()
            except Exception:
                logger.exception("a request could not be written down")
