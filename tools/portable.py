"""Does the portable build work on an older processor? Runs it under qemu as a Haswell, which has no AVX-512.

Builds into a cache of its own beside the usual one, so that the build in use stays what it is.

Usage: python -m tools.portable [--cpu Haswell]     (needs qemu-user; the first build takes ten minutes on two cores)
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from runner_builders.cache import default_cache
from runner_builders.pin import read_pin
from runner_builders.source import find_source
from runner_builders.verify import read_goldens, verify
from runner_supervisor.planning import demo_model

BUILD_TIMEOUT_S = 4 * 3600.0
LIST_TIMEOUT_S = 120.0


def build_portable() -> Path:
    """The portable build's llama-server, built first if it is not there."""
    cache = default_cache().root
    source = find_source(read_pin(), explicit=None, cache=cache, say=print).path
    command = [sys.executable, "-m", "runner_supervisor", "build", "--backend", "cpu", "--portable"]
    done = subprocess.run(
        [*command, "--source", str(source), "--print-manifest"],
        env=os.environ | {"RUNNER_CACHE_DIR": str(cache / "portable")},
        stdout=subprocess.PIPE,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=True,
    )
    return Path(done.stdout.strip()).with_name("llama-server")


def on(cpu: str, binary: Path, folder: Path) -> Path:
    """A program in `folder` that runs a binary on another processor."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        sys.exit("no qemu-x86_64 found; install qemu-user")
    path = folder / f"{binary.parent.name}-on-{cpu}"
    path.write_text(f'#!/bin/sh\nexec {qemu} -cpu {cpu} {binary} "$@"\n')
    path.chmod(0o755)
    return path


def main() -> None:
    """Build, verify on the other processor, and show what a native build does there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", default="Haswell", help="one of `qemu-x86_64 -cpu help`")
    cpu = parser.parse_args().cpu
    binary = build_portable()
    with tempfile.TemporaryDirectory() as name:
        portable = on(cpu, binary, Path(name))
        listing = subprocess.run(
            [portable, "--list-devices"], capture_output=True, text=True, timeout=LIST_TIMEOUT_S, check=True
        )
        loaded = [line for line in (listing.stderr + listing.stdout).splitlines() if "loaded CPU backend" in line]
        print(*loaded, sep="\n")
        goldens = read_goldens(demo_model().parent)
        found = verify(portable, goldens=goldens, promised="", gpu_present=False, say=print)
        print(f"the portable build works on a {cpu}: {found.goldens} golden prompts answered")
        native = default_cache().current()
        if native:
            there = on(cpu, native[0].parent / native[1].binary, Path(name))
            code = subprocess.run([there, "--version"], capture_output=True, timeout=LIST_TIMEOUT_S, check=False)
            print(f"the build for this machine ends there with code {code.returncode}")


if __name__ == "__main__":
    main()
