"""The errors a build can end in. Each message says what happened and what to do next, in one line.

BuilderError                 exit code 1
├── SourceError              llama.cpp's source cannot be had, or is not the pinned one
├── ToolchainError           a compiler or tool is missing or unsuitable
├── PrebuiltError            exit code 78: LLAMA_CPP_DIR names a folder without a llama-server
├── VerifyError              a new llama-server does not start, does not see its devices, or computes wrong
└── CompileError             cmake or the compiler failed; `tail` holds its last lines, `log` all of them
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class BuilderError(Exception):
    """Base of all errors that end a build. `exit_code` is what the process exits with."""

    exit_code: ClassVar[int] = 1


class SourceError(BuilderError):
    """The source is missing or is not the pinned one."""


class ToolchainError(BuilderError):
    """A tool is missing or unsuitable."""


class PrebuiltError(BuilderError):
    """A folder that should hold a llama-server does not. Starting again without a change cannot help."""

    exit_code = 78


class VerifyError(BuilderError):
    """A new llama-server does not work."""


class CompileError(BuilderError):
    """cmake or the compiler failed."""

    def __init__(self, message: str, *, tail: list[str], log: Path) -> None:
        super().__init__(message)
        self.tail = tail
        self.log = log
