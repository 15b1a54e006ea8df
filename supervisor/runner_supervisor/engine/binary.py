"""The llama-server to run, as the builder's manifest describes it (docs/architecture.md, The manifest)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from runner_supervisor.engine.command import engine_environment
from runner_supervisor.errors import ConfigError, EngineError

SCHEMA = 3
BESIDE = frozenset({"manifest.json", "sbom.cdx.json"})
"""What lies beside the files of a build, and is none of them."""

GPU_BACKENDS = frozenset({"cuda", "hip", "metal", "vulkan"})
DEVICE = re.compile(r"^  \w+: .+ \(\d+ MiB", re.MULTILINE)
"""A line of `--list-devices` (common/arg.cpp): name, description, and memory."""

FAILED = re.compile(r"^.*\b(?:failed|error)\b.*$", re.MULTILINE)
LIST_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """A llama-server: where it is, for which `backend` it was built, from which `commit`, and its files' SHA-256."""

    path: Path
    backend: str
    commit: str
    files: dict[str, str] = field(default_factory=dict)


def read_manifest(manifest: Path) -> EngineBinary:
    """Read the manifest that `runner-supervisor build` wrote, and see that the files are what it says.

    Raises:
        EngineError: the manifest or a file it names is missing or unreadable, or a file is not what was built.
    """
    again = "run `runner-supervisor build` to make it again"
    try:
        fields = json.loads(manifest.read_bytes())
        schema = fields["schema"]
        binary = EngineBinary(
            path=manifest.parent / fields["binary"],
            backend=fields["backend"],
            commit=fields["commit"],
            files=dict(fields["files"]),
        )
        damaged = _damaged(manifest.parent, binary.files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"cannot read the build manifest {manifest} ({error}); {again}") from None
    if schema != SCHEMA:
        raise EngineError(f"{manifest} has schema {schema}, not {SCHEMA}; {again}")
    if damaged:
        raise EngineError(
            f"{damaged} is not what was built: the disk fails, or somebody changed it; find out which, then {again}"
        )
    if not os.access(binary.path, os.X_OK):
        raise EngineError(f"no executable llama-server at {binary.path}; {again}")
    return binary


def _damaged(folder: Path, files: dict[str, str]) -> Path | None:
    """The first file that differs from its SHA-256, or that nobody built: llama-server loads what lies beside it."""
    for name, expected in files.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                return folder / name
    return next((path for path in sorted(folder.iterdir()) if path.name not in BESIDE | files.keys()), None)


def require_gpu(binary: EngineBinary) -> None:
    """See that a llama-server built for GPUs sees one: without any it would silently compute on the processor.

    Raises:
        ConfigError: it sees none; the message quotes its reason.
        EngineError: it does not run, or does not say within a minute.
    """
    if binary.backend not in GPU_BACKENDS:
        return
    try:
        listing = subprocess.run(
            [binary.path, "--list-devices"],
            env=engine_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIST_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{binary.path} --list-devices fails: {error}; build it again for this machine") from None
    if DEVICE.search(listing):
        return
    reason = FAILED.search(listing)
    why = f": {reason[0].strip()}" if reason else ""
    raise ConfigError(
        f"llama-server was built for {binary.backend} and sees no GPU{why}; see to the driver, in a container to "
        "`--gpus all`, or set RUNNER_ALLOW_CPU=1 to compute on the processor"
    )
