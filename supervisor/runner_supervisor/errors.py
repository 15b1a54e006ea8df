"""The errors a user can meet. Each message says what happened and what to do next, in one line.

RunnerError                  exit code 1
├── ConfigError              exit code 78 (sysexits' EX_CONFIG): starting again without a change cannot help
│   ├── ModelError           the model file is missing or is no GGUF
│   ├── MemoryLackError      the model does not fit into the memory that is free
│   └── AddressError         the address to listen on cannot be had
├── UsageError               what keys have used could not be read or written
├── EngineError              llama-server could not be built, started or kept
├── KeysError                there is no such key, or it cannot become what was asked for
├── AlreadyRunningError      another supervisor owns the state folder
└── NotRunningError          exit code 3 (as LSB init scripts say "not running"): no supervisor answers
"""

from __future__ import annotations

from typing import ClassVar


class RunnerError(Exception):
    """Base of all errors that end a command. `exit_code` is what the process exits with."""

    exit_code: ClassVar[int] = 1


class ConfigError(RunnerError):
    """A setting is unknown, ill-typed or contradicts another."""

    exit_code = 78


class ModelError(ConfigError):
    """The model file cannot be served as it is."""


class MemoryLackError(ConfigError):
    """The model does not fit into the memory that is free."""


class AddressError(ConfigError):
    """The host and port cannot be listened on."""


class UsageError(RunnerError):
    """What keys have used could not be read or written."""


class EngineError(RunnerError):
    """llama-server could not be built, started or kept alive."""


class KeysError(RunnerError):
    """There is no such key, or it cannot become what was asked for."""


class AlreadyRunningError(RunnerError):
    """A supervisor already runs on this state folder."""


class NotRunningError(RunnerError):
    """No supervisor runs on this state folder."""

    exit_code = 3
