"""Signs what was built on a Mac. Apple silicon runs nothing unsigned, and a copied or changed file loses its
signature. A signature of no identity ("ad hoc") is enough for one's own machines."""

from __future__ import annotations

from pathlib import Path

from runner_builders.errors import BuilderError
from runner_builders.run import run

SIGN_TIMEOUT_S = 60.0


def sign(files: tuple[Path, ...], *, codesign: Path) -> None:
    """Sign files ad hoc, inside out: libraries first, the program that loads them (the first file) last.

    Raises:
        BuilderError: codesign refuses.
    """
    program, *libraries = files
    for file in (*libraries, program):
        for arguments in (["--force", "--sign", "-", "--timestamp=none"], ["--verify", "--strict"]):
            outcome = run([str(codesign), *arguments, str(file)], timeout_s=SIGN_TIMEOUT_S)
            if not outcome.ok:
                raise BuilderError(
                    f"codesign refuses {file.name}: {outcome.last}; install Apple's tools again: "
                    "`xcode-select --install`"
                )
