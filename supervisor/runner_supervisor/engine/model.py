"""Is this file a model at all? Answered before a process is started for it."""

from __future__ import annotations

from pathlib import Path

from runner_supervisor.errors import ModelError

GGUF_MAGIC = b"GGUF"
"""First four bytes of every GGUF file (ggml/include/gguf.h)."""


def check_model(path: Path) -> None:
    """Make sure `path` can be read and begins as a GGUF file does.

    Raises:
        ModelError: it is missing, unreadable, a folder, or something else than GGUF.
    """
    hint = "give a GGUF file with --model or RUNNER_MODEL"
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except FileNotFoundError:
        raise ModelError(f"no model file at {path}; {hint}") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder; {hint}") from None
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}; {hint}") from None
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file (it does not begin with the bytes GGUF); {hint}")
