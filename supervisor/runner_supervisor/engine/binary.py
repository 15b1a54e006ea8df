"""The llama-server to run, as the builder's manifest describes it (docs/architecture.md, The manifest)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from runner_supervisor.errors import EngineError


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """A llama-server executable: where it is, for which `backend` it was built, from which `commit`, its hash."""

    path: Path
    backend: str
    commit: str
    sha256: str = ""


def read_manifest(manifest: Path) -> EngineBinary:
    """Read the manifest that `runner-supervisor build` wrote.

    Raises:
        EngineError: the manifest or the binary it names is missing or unreadable.
    """
    again = "run `runner-supervisor build` to make it again"
    try:
        fields = json.loads(manifest.read_bytes())
        binary = EngineBinary(
            path=manifest.parent / fields["binary"],
            backend=fields["backend"],
            commit=fields["commit"],
            sha256=fields["sha256"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"cannot read the build manifest {manifest} ({error}); {again}") from None
    if not os.access(binary.path, os.X_OK):
        raise EngineError(f"no executable llama-server at {binary.path}; {again}")
    return binary
