"""A llama-server that somebody else built, named by LLAMA_CPP_DIR."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from runner_builders.cache import Cache
from runner_builders.errors import PrebuiltError
from runner_builders.manifest import FILE_NAME, Manifest, Verified, read_manifest, sha256_of
from runner_builders.toolchain import cpu_identity
from runner_builders.verify import Goldens, ask, devices_of, version_of

PLACES = ("llama-server", "bin/llama-server", "build/bin/llama-server")
LIBRARIES = ("*.so*", "*.dylib")


def prebuilt(directory: Path, *, goldens: Goldens | None, cache: Cache, say: Callable[[str], None]) -> Path:
    """Write a manifest for the llama-server in a folder, and return its path.

    It has to start. Wrong answers to the golden prompts bring a warning and no more: it may be of another llama.cpp,
    which is for whoever named it to judge. Nothing is done again for files that are as they were the last time.

    Raises:
        PrebuiltError: there is no llama-server in the folder, or it does not start.
    """
    binary = _find(directory).absolute()
    libraries = {path for pattern in LIBRARIES for path in binary.parent.glob(pattern) if path.is_file()}
    files = {str(path): sha256_of(path) for path in (binary, *sorted(libraries))}
    folder = cache.prebuilt_dir(binary)
    seen = read_manifest(folder / FILE_NAME)
    if seen and seen.files == files and (goldens is None or seen.verified.goldens or seen.verified.notices):
        _warn(seen, say)
        return folder / FILE_NAME
    version = version_of(binary)
    if version is None:
        raise PrebuiltError(f"{binary} --version fails; build it again for this machine")
    wrong = ask(binary, goldens) if goldens else None
    manifest = Manifest(
        binary=str(binary),
        files=files,
        backend="prebuilt",
        commit=version.removeprefix("version: "),
        patches={},
        origin="LLAMA_CPP_DIR",
        options={},
        asked={},
        compiler="unknown",
        cpu=cpu_identity(),
        verified=Verified(
            version=version,
            devices=devices_of(binary) or (),
            goldens=len(goldens.prompts) if goldens and not wrong else 0,
            notices=(wrong,) if wrong else (),
        ),
        duration_s=0.0,
    )
    _warn(manifest, say)
    folder.mkdir(parents=True, exist_ok=True)
    return manifest.write(folder)


def _warn(manifest: Manifest, say: Callable[[str], None]) -> None:
    for notice in manifest.verified.notices:
        say(f"warning: {manifest.binary} {notice}; it is used all the same, as LLAMA_CPP_DIR says")


def _find(directory: Path) -> Path:
    for place in PLACES:
        if (directory / place).is_file() and os.access(directory / place, os.X_OK):
            return directory / place
    raise PrebuiltError(
        f"LLAMA_CPP_DIR is set, but {directory} holds no executable llama-server (looked for {', '.join(PLACES)}); "
        "name the folder of a llama.cpp build, or unset LLAMA_CPP_DIR to have one built"
    )
