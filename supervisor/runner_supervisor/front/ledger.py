"""Requests that have ended, until they are written down: some at a time, and none in the way of its client's next."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

GATHER_S: Final = 0.2
"""For how long accounts gather, in seconds."""

MOST: Final = 64


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

    def add(self, account: Account) -> None:
        """Have an account written down soon."""
        self._open.append(account)
        if len(self._open) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self.write_down)
        elif len(self._open) >= MOST:
            self.write_down()

    def write_down(self) -> None:
        """Write down what is open: for whoever wants to know now."""
        accounts, self._open = self._open, []
        for account in accounts:
            account.write_down()
