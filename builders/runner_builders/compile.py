"""Runs a plan: copy and patch the source, configure, compile, and tell how it goes."""

from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

from runner_builders.errors import BuilderError, CompileError
from runner_builders.patches import apply
from runner_builders.plan import BuildPlan
from runner_builders.progress import Reporter
from runner_builders.run import Outcome, run
from runner_builders.toolchain import Toolchain

CONFIGURE_TIMEOUT_S = 600.0
COMPILE_TIMEOUT_S = 4 * 3600.0
TARGET = "llama-server"
STEP = re.compile(r"\[(\d+)/(\d+)\]")


def compile_server(
    plan: BuildPlan, *, source: Path, work: Path, toolchain: Toolchain, jobs: int, reporter: Reporter
) -> Path:
    """Compile llama-server in the folder `work`; a build that was cut short there goes on where it stopped.

    What is compiled is a copy of the source with the plan's patches: whoever owns the source finds it unchanged.

    Returns:
        The binary.

    Raises:
        SourceError: a patch does not fit the source.
        CompileError: cmake or the compiler failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    tree, out = work / "source", work / "build"
    _copy(source, tree)
    apply(plan.patches, tree)
    log = work / "build.log"
    environment = os.environ | {
        "CC": str(toolchain.cc),
        "CXX": str(toolchain.cxx),
        "NINJA_STATUS": "[%f/%t] ",
    }
    with log.open("w", encoding="utf-8") as file:

        def keep(line: str) -> None:
            file.write(line + "\n")
            step = STEP.match(line)
            if step:
                reporter.step(int(step[1]), int(step[2]))

        configure = [
            *(str(toolchain.cmake), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={toolchain.ninja}"),
            *("-S", str(tree), "-B", str(out), *plan.cmake_arguments),
        ]
        outcome = run(configure, timeout_s=CONFIGURE_TIMEOUT_S, environment=environment, on_line=keep)
        _check(outcome, "cmake could not configure llama.cpp", log)
        build = [str(toolchain.cmake), "--build", str(out), "--target", TARGET, "--parallel", str(jobs)]
        outcome = run(build, timeout_s=COMPILE_TIMEOUT_S, environment=environment, on_line=keep)
        _check(outcome, "llama-server did not compile", log)
    return out / "bin" / f"{TARGET}{toolchain.host.executable_suffix}"


def _copy(source: Path, tree: Path) -> None:
    """Copy the source, times and all: what was compiled from unchanged files need not be compiled again."""
    try:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(source, tree, symlinks=True, ignore=partial(_leave_out, source))
    except OSError as error:
        raise BuilderError(f"cannot copy llama.cpp's source to {tree}: {error}; make room there") from None


def _leave_out(source: Path, folder: str, names: list[str]) -> set[str]:
    """At the top, what is no source: git's folder, and builds of the owner's."""
    return {name for name in names if name == ".git" or name.startswith("build")} if Path(folder) == source else set()


def _check(outcome: Outcome, what: str, log: Path) -> None:
    if outcome.ok:
        return
    why = "it took too long" if outcome.timed_out else f"exit code {outcome.code}"
    raise CompileError(f"{what} ({why}); the whole log is {log}", tail=outcome.tail, log=log)
