"""What an engine that hangs looked like, written down before it is ended."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from runner_supervisor.engine.process import Child
from runner_supervisor.private import write_private

logger = logging.getLogger(__name__)

KEPT = 5


def write_report(
    folder: Path, child: Child, slots: list[dict[str, Any]] | None, last: Sequence[str], *, reason: str
) -> Path | None:
    """Write one report: slots, threads and where in the kernel they wait, memory, the last log lines.

    Args:
        folder: where reports are kept, the last few of them.
        child: the process that hangs.
        slots: what it says that they do, or None: it says nothing.
        last: the last lines of its log.
        reason: why it is thought to hang.

    Returns:
        The report's path, or None: it could not be written, which the log says.
    """
    now = datetime.now(UTC)
    lines = [
        f"llama-server {child.pid}, {now:%Y-%m-%d %H:%M:%S} UTC: {reason}",
        f"resident memory: {child.rss_bytes / 2**20:.0f} MiB",
        "slots: " + (json.dumps(slots) if slots is not None else "no answer"),
        "threads (id, state, where in the kernel, processor seconds, name):",
        "(states: R runs, S sleeps, D waits for a device, T stopped by a signal, t by a debugger)",
        *(_threads(child.pid) or ["unknown"]),
        "last lines:",
        *last,
    ]
    return _keep(folder / f"stall-{now:%Y%m%dT%H%M%S}-{child.pid}.txt", lines)


def _keep(path: Path, lines: list[str]) -> Path | None:
    try:
        write_private(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))
        for old in sorted(path.parent.glob("stall-*.txt"))[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("cannot write a report on the engine that hangs: %s", error)
        return None
    return path


def _threads(pid: int) -> list[str]:
    """A line for each thread. The kernel's view of it is read on Linux alone (proc(5))."""
    lines = []
    with contextlib.suppress(psutil.Error):
        for thread in psutil.Process(pid).threads():
            task = Path(f"/proc/{pid}/task/{thread.id}")
            state, where, name = "?", "?", "?"
            with contextlib.suppress(OSError, IndexError):
                state = task.joinpath("stat").read_text().rpartition(")")[2].split()[0]
                name = task.joinpath("comm").read_text().strip()
                where = task.joinpath("wchan").read_text().strip() or "-"
            lines.append(f"{thread.id} {state} {where} {thread.user_time + thread.system_time:.2f} {name}")
    return lines
