"""Runs a plan: copy and patch the source, configure, compile, and tell how it goes."""

from __future__ import annotations

import errno
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from itertools import dropwhile, takewhile
from pathlib import Path

from runner_builders.errors import CompileError
from runner_builders.pace import Pace, durations
from runner_builders.patches import apply
from runner_builders.plan import BuildPlan
from runner_builders.progress import Phase, Reporter
from runner_builders.run import TAIL_LINES, Outcome, run
from runner_builders.toolchain import Toolchain
from runner_builders.tree import copy

CONFIGURE_TIMEOUT_S = 600.0
COMPILE_TIMEOUT_S = 4 * 3600.0
QUICK_TIMEOUT_S = 60.0
TARGET = "llama-server"
STEP = re.compile(r"\[(\d+)/(\d+)\] .*?(\S+)$")
REPRODUCIBLE = Path(__file__).with_name("reproducible.cmake")
SOURCE_DATE_EPOCH = 946_684_800
"""The time of every build, in seconds since 1970 (reproducible-builds.org): the year 2000."""

FLAGS = frozenset({"CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDAFLAGS"})
"""Variables whose flags CMake would build with: no part of the plan, so none of the build."""


def compile_server(
    plan: BuildPlan,
    *,
    source: Path,
    work: Path,
    toolchain: Toolchain,
    jobs: int,
    took_s: Mapping[str, float],
    reporter: Reporter,
) -> Path:
    """Compile llama-server in the folder `work`; a build that was cut short there goes on where it stopped.

    What is compiled is a copy of the source with the plan's patches: whoever owns the source finds it unchanged.
    Neither this machine's folders nor the time get into it, so that the same plan gives the same bytes.

    Args:
        plan: what to compile.
        source: the unchanged source.
        work: our folder for it.
        toolchain: what to compile with.
        jobs: how many compilers at once.
        took_s: seconds that steps took before, by what they make; for the time left.
        reporter: told how it goes.

    Returns:
        The folder with the binary and what belongs to it.

    Raises:
        SourceError: a patch does not fit the source.
        CompileError: cmake or the compiler failed.
        OSError: there is no room.
    """
    work.mkdir(parents=True, exist_ok=True)
    tree, out, log = work / "source", work / "build", work / "build.log"
    copy(source, tree)
    apply(plan.patches, tree)
    environment = _environment(toolchain)
    with log.open("w", encoding="utf-8") as file:

        def do(argv: list[str], what: str, *, timeout_s: float, on_line: Callable[[str], None]) -> None:
            def keep(line: str) -> None:
                file.write(line + "\n")
                on_line(line)

            outcome = run(argv, timeout_s=timeout_s, environment=environment, on_line=keep, guarded=True)
            if not outcome.ok:
                file.flush()
                tail = _failed_lines(log) or outcome.tail
                raise CompileError(f"{what} ({_why(outcome)}); the whole log is {log}", tail=tail, log=log)

        reporter.phase(Phase.CONFIGURE)
        configure = [
            *(str(toolchain.cmake), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={toolchain.ninja}"),
            *("-S", str(tree), "-B", str(out), f"-DCMAKE_PROJECT_INCLUDE={REPRODUCIBLE}", *plan.cmake_arguments),
        ]
        do(configure, "cmake could not configure llama.cpp", timeout_s=CONFIGURE_TIMEOUT_S, on_line=_ignore)
        ninja = [str(toolchain.ninja), "-C", str(out), "-j", str(jobs), TARGET]
        coming: list[str] = []
        do([*ninja, "-n"], "ninja cannot tell what is to do", timeout_s=QUICK_TIMEOUT_S, on_line=coming.append)
        reporter.phase(Phase.COMPILE)
        follow = _follower(coming, took_s=took_s, reporter=reporter)
        do(ninja, "llama-server did not compile", timeout_s=COMPILE_TIMEOUT_S, on_line=follow)
    return out / "bin"


def durations_of(work: Path) -> dict[str, float]:
    """What each step of a finished compile took, in seconds, by what it made."""
    return durations((work / "build" / ".ninja_log").read_text().splitlines())


def _environment(toolchain: Toolchain) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in FLAGS} | {
        "CC": str(toolchain.cc),
        "CXX": str(toolchain.cxx),
        "NINJA_STATUS": "[%f/%t] ",
        "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
        "ZERO_AR_DATE": "1",
    }


def _follower(coming: list[str], *, took_s: Mapping[str, float], reporter: Reporter) -> Callable[[str], None]:
    """Reads ninja's lines as steps. `coming` are the lines of a dry run: all that will be done."""
    pace = Pace([match[3] for line in coming if (match := STEP.match(line))], took_s=took_s)
    began_s = time.monotonic()

    def follow(line: str) -> None:
        match = STEP.match(line)
        if match:
            pace.done(match[3])
            reporter.step(int(match[1]), int(match[2]), pace.left_s(time.monotonic() - began_s))

    return follow


def _failed_lines(log: Path) -> list[str]:
    """The last lines of the first command that failed; ninja's own last lines may be warnings of those beside it."""
    from_it_on = dropwhile(lambda line: not line.startswith("FAILED:"), log.read_text(encoding="utf-8").splitlines())
    said = takewhile(lambda line: not STEP.match(line) and not line.startswith("ninja:"), from_it_on)
    return list(deque(said, maxlen=TAIL_LINES))


def _why(outcome: Outcome) -> str:
    if outcome.timed_out:
        return "it took too long"
    if any(os.strerror(errno.ENOSPC) in line for line in outcome.tail):
        return "the disk is full: make room there, for one with `runner-supervisor builds prune`"
    return f"exit code {outcome.code}"


def _ignore(_: str) -> None:
    """A line that tells nothing about the progress."""
