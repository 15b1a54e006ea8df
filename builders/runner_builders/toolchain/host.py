"""The machine itself: its type, its processor's features, what it has free."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import psutil

from runner_builders.toolchain.values import Host


def detect_host() -> Host:
    """Look at the machine."""
    return Host(
        system=sys.platform,
        machine=platform.machine(),
        cpu=cpu_identity(),
        processors=_processors(),
        memory_bytes=psutil.virtual_memory().available,
    )


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_identity() -> str:
    """The machine type and, where /proc/cpuinfo tells, a digest of the processor's features.

    A native build is for one set of features: with a home folder that several machines share, each needs its
    own.
    """
    machine = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return machine
    features = {line for line in lines if line.lower().startswith(("flags", "features", "model name"))}
    digest = hashlib.sha256("\n".join(sorted(features)).encode()).hexdigest()
    return f"{machine}-{digest[:12]}"
