"""Do two builds of one plan give the same bytes? Builds llama-server in two folders, from two copies of the source.

Usage: python -m tools.reproducible [--beside]     (twice five minutes on two cores)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runner_builders.cache import default_cache
from runner_builders.pin import read_pin
from runner_builders.source import find_source
from runner_builders.tree import copy

BUILD_TIMEOUT_S = 4 * 3600.0


def build(source: Path, cache: Path) -> dict[str, str]:
    """Build llama-server from `source` into `cache`, with no compiler cache; its files with their SHA-256."""
    done = subprocess.run(
        [sys.executable, "-m", "runner_supervisor", "build", "--source", str(source), "--print-manifest"],
        env=os.environ | {"RUNNER_CACHE_DIR": str(cache), "CCACHE_DISABLE": "1", "SCCACHE_RECACHE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=True,
    )
    return files_of(Path(done.stdout.strip()))


def files_of(manifest: Path) -> dict[str, str]:
    """A build's files with their SHA-256."""
    return dict(json.loads(manifest.read_text())["files"])


def main() -> None:
    """Build twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beside", action="store_true", help="build once, and compare with the build in use")
    options = parser.parse_args()
    cache = default_cache()
    source = find_source(read_pin(), explicit=None, cache=cache.root, say=print).path
    with tempfile.TemporaryDirectory(prefix="reproducible-") as name:
        folder = Path(name)
        builds = []
        if options.beside:
            current = cache.current()
            if current is None:
                sys.exit("no build is in use; run `runner-supervisor build`, or leave --beside out")
            builds.append(files_of(current[0]))
        for number in range(2 - len(builds)):
            place = folder / ("x" * number + "source")  # of another length: offsets must not depend on it
            copy(source, place)
            builds.append(build(place, folder / f"cache-{number}"))
    for name in sorted(builds[0] | builds[1]):
        print(name, *(files.get(name, "missing") for files in builds))
    if builds[0] != builds[1]:
        sys.exit("the builds differ")
    print("the builds are equal")


if __name__ == "__main__":
    main()
