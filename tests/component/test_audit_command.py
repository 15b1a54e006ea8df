"""`runner-supervisor logs --audit`, as a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runner_supervisor.front.audit import ANSWERED, BROKEN, AuditLog, Entry, refused
from runner_supervisor.layout import Layout

COMMAND_S = 60.0


def entry(outcome: str) -> Entry:
    return Entry(0.0, b"id", None, None, "local", "GET", "/v1/models", 200, outcome, 1.0)


@pytest.fixture
def layout(short_dir: Path) -> Layout:
    """A state folder whose audit log has one entry of each kind."""
    layout = Layout(short_dir)
    layout.create()
    log = AuditLog(layout.audit_log)
    for outcome in (ANSWERED, refused("rate_limit_exceeded"), BROKEN):
        log.record(entry(outcome))
    log.close()
    return layout


def logs(layout: Layout, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runner_supervisor", "logs", "--state-dir", str(layout.state_dir), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)


def test_the_audit_log_is_shown_as_it_is(layout: Layout) -> None:
    assert logs(layout, "--audit").stdout == layout.audit_log.read_text()


@pytest.mark.parametrize(("level", "count"), [("info", 3), ("warning", 2), ("error", 1)])
def test_what_went_well_can_be_left_out(layout: Layout, level: str, count: int) -> None:
    assert logs(layout, "--audit", "--level", level).stdout.count("\n") == count


def test_two_logs_at_once_are_not_understood(layout: Layout) -> None:
    done = logs(layout, "--audit", "--front")
    assert done.returncode == 2
    assert "give one of them" in done.stderr
