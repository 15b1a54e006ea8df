"""What is done to a compiled llama-server before it is installed: libraries beside it, signatures on a Mac."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner_builders.codesign import sign
from runner_builders.errors import BuilderError
from runner_builders.plan import BuildPlan


def finish(plan: BuildPlan, folder: Path) -> tuple[Path, ...]:
    """Complete what was compiled into `folder`, and return the files to install, llama-server first.

    Raises:
        BuilderError: a file that the plan promises is not there, or a Mac refuses to sign.
    """
    bundle(plan.bundled, folder)
    files = outputs(plan, folder)
    if plan.codesign:
        sign(files, codesign=plan.codesign)
    return files


def bundle(patterns: tuple[str, ...], folder: Path) -> None:
    """Put the libraries that a binary needs at run time beside it."""
    for pattern in patterns:
        found = sorted(Path(pattern).parent.glob(Path(pattern).name))
        if not found:
            raise BuilderError(f"no {pattern} to put beside llama-server; install the toolkit again")
        for library in found:
            try:
                shutil.copy2(library, folder)
            except OSError as error:
                raise BuilderError(f"cannot copy {library} to {folder}: {error}; make room there") from None


def outputs(plan: BuildPlan, folder: Path) -> tuple[Path, ...]:
    """The files in `folder` that the plan says to install."""
    files: dict[Path, None] = {}
    for pattern in plan.outputs:
        found = sorted(folder.glob(pattern))
        if not found:
            raise BuilderError(f"the build made no {pattern} in {folder}; build it again without a compiler cache")
        files |= dict.fromkeys(found)
    return tuple(files)
