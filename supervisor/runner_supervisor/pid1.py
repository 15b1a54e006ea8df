"""What process 1 of a container is there for: it reaps what others leave behind, and hands signals on.

A process whose parent has ended becomes a child of process 1, and is a zombie until that waits for it. The
supervisor waits for its own children, for each in its own way, and must not wait for any that comes. So process 1
forks: the supervisor runs in the child, and process 1 becomes this file alone, run as a program, to be small.

Usage: pid1.py CHILD     (of whoever becomes this; with `stay_behind`'s signals blocked)
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stay_behind() -> None:
    """Return in a child; the caller waits for it, reaps all others, and ends with the child's exit code.

    That is 128 and the signal's number if a signal ended the child. The child has a session of its own, so that a
    terminal's Ctrl-C comes to it once, handed on, and not twice.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # process 1 loses a signal that it has no handler for
    child = os.fork()
    if child:
        os.execv(sys.executable, [sys.executable, "-I", "-S", __file__, str(child)])  # noqa: S606
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)


def main() -> None:
    """Wait for the child that the command line names."""
    child = int(sys.argv[1])

    def hand_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was reaped just now
            os.kill(child, number)

    for number in HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
    sys.exit(_reap_until(child))


def _reap_until(child: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
