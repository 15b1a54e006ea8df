"""Accounts of requests are written down some at a time, and at once for whoever asks."""

from __future__ import annotations

import asyncio

import pytest

from runner_supervisor.front import ledger
from runner_supervisor.front.ledger import Ledger

pytestmark = pytest.mark.anyio


class Account:
    def __init__(self, written: list[int], number: int) -> None:
        self._written, self._number = written, number

    def write_down(self) -> None:
        self._written.append(self._number)


async def test_accounts_are_written_down_in_order_when_somebody_asks() -> None:
    book, written = Ledger(), list[int]()
    for number in range(3):
        book.add(Account(written, number))
    assert written == []
    book.write_down()
    assert written == [0, 1, 2]
    book.write_down()
    assert written == [0, 1, 2]


async def test_accounts_are_written_down_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "GATHER_S", 0.0)
    book, written = Ledger(), list[int]()
    book.add(Account(written, 1))
    async with asyncio.timeout(10):
        while not written:
            await asyncio.sleep(0)


async def test_an_account_that_fails_costs_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Account):
        def write_down(self) -> None:
            raise ValueError(self._number)

    book, written = Ledger(), list[int]()
    for account in (Account(written, 1), Failing(written, 2), Account(written, 3)):
        book.add(account)
    book.write_down()
    assert written == [1, 3]
    assert "a request could not be written down" in caplog.text


async def test_what_is_added_after_a_full_batch_gathers_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "GATHER_S", 3600.0)
    book, written = Ledger(), list[int]()
    for number in range(ledger.MOST):
        book.add(Account(written, number))
    assert book._timer is None
    book.add(Account(written, ledger.MOST))
    assert book._timer is not None
    book.write_down()
    assert written == list(range(ledger.MOST + 1))


async def test_no_more_than_so_many_wait() -> None:
    book, written = Ledger(), list[int]()
    for number in range(ledger.MOST):
        book.add(Account(written, number))
    assert written == list(range(ledger.MOST))
