"""Compiles the front's data path to machine code when a wheel is made: a build hook, which pyproject.toml names.

The wheel is one for this platform then, and has every source file beside: Python takes the compiled module where
there are both. Without a C compiler or Python's headers, or where the compile fails, the wheel is one of pure Python
and a line says why. `RUNNER_COMPILE=0` asks for that, `RUNNER_COMPILE=1` makes it an error. What is installed with
`--editable` is never compiled: the source would change and the compiled module stay.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "runner_supervisor"
SOURCES = "supervisor"
SHARED_LIBRARY = f"{PACKAGE}.native"
TIMEOUT_S = 1800
MYPY = ("--config-file=", "--cache-dir=cache", "--follow-imports=silent")
"""What these modules import must be there, or it is an error: a class with a base that mypyc does not know is laid
out wrongly, and crashes."""


class CompiledFront(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel. `requires` and `modules` come from pyproject.toml."""

    folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What a compile needs, where there will be one."""
        return [] if self._hindrance() else list(self.config["requires"])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have what comes of it put beside the sources.

        Raises:
            RuntimeError: it cannot be compiled, and `RUNNER_COMPILE=1` demands it.
        """
        if version == "editable":
            return
        why_not = self._hindrance()
        try:
            self.folder = folder = tempfile.TemporaryDirectory(prefix="runner-supervisor-")
            why_not = why_not or self._compile(Path(folder.name))
        except (OSError, subprocess.SubprocessError) as error:  # shutil's are OSErrors
            why_not = str(error)
        if why_not and os.environ.get("RUNNER_COMPILE") == "1":
            raise RuntimeError(f"the front cannot be compiled: {why_not}")
        if why_not:
            last = why_not.splitlines()[-1]
            self.app.display_warning(f"the front is not compiled, and serves more slowly: {last}")
            return
        made = Path(folder.name, "lib")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= {str(each): str(each.relative_to(made)) for each in made.rglob("*.so")}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """The wheel is written: remove what it was made of."""
        if self.folder:
            self.folder.cleanup()

    def _hindrance(self) -> str:
        """Why nothing can be compiled here, or is not to be; empty if it can."""
        if os.environ.get("RUNNER_COMPILE") == "0":
            return "RUNNER_COMPILE=0 says so"
        if sys.implementation.name != "cpython":
            return f"{sys.implementation.name} takes no compiled modules"
        compiler = [*shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or ""), "cc"][0]
        if not shutil.which(compiler):
            return f"there is no C compiler ({compiler}); install one and build it again"
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.exists():
            return f"there are no headers of Python ({header}); install them and build it again"
        return ""

    def _compile(self, folder: Path) -> str:
        """Compile copies of the sources in a folder; returns why that failed, or nothing if it did not."""
        sources = Path(self.root, SOURCES, PACKAGE)
        shutil.copytree(sources, folder / PACKAGE, ignore=shutil.ignore_patterns("demo", "pages", "*.so"))
        command = [sys.executable, __file__, *(f"{PACKAGE}/{module}" for module in self.config["modules"])]
        with (folder / "log").open("w") as log:
            done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, timeout=TIMEOUT_S, check=False)
        if not done.returncode:
            return ""
        return (folder / "log").read_text().strip() or f"it ended with {done.returncode}"


def compile_here(modules: list[str]) -> None:
    """Compile files below the current folder, and put the libraries into `lib`."""
    from mypyc.build import mypycify  # noqa: PLC0415 - these are there only when something is compiled
    from setuptools import setup  # noqa: PLC0415

    libraries = mypycify([*MYPY, *modules], group_name=SHARED_LIBRARY, target_dir="c", debug_level="0")
    script = ["build_ext", "--build-lib", "lib", "--build-temp", "temp"]
    setup(name=PACKAGE, packages=[], ext_modules=libraries, script_args=script)


if __name__ == "__main__":
    compile_here(sys.argv[1:])
