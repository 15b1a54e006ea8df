"""From a request to a finished build: find or make, verify that it starts, install atomically."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from runner_builders.auto import choose_backend
from runner_builders.backends import BACKENDS
from runner_builders.cache import Cache
from runner_builders.compile import compile_server
from runner_builders.errors import BuilderError, PrebuiltError, ToolchainError
from runner_builders.finish import finish
from runner_builders.manifest import FILE_NAME, Manifest, sha256_of
from runner_builders.patches import fingerprints
from runner_builders.pin import Pin
from runner_builders.plan import BuildPlan, Wishes, common_options, jobs_for, make_plan
from runner_builders.progress import Reporter
from runner_builders.run import run
from runner_builders.source import Source, find_source
from runner_builders.toolchain import Toolchain, cpu_identity, detect
from runner_builders.wheels import fetch

AUTO = "auto"
START_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 4 * 3600.0
PREBUILT_PLACES = ("llama-server", "bin/llama-server", "build/bin/llama-server")


@dataclass(frozen=True, slots=True)
class Request:
    """What to build, from where (None: found by itself), with how many jobs (None: what the machine bears)."""

    backend: str = AUTO
    source: Path | None = None
    jobs: int | None = None
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, the toolchain it is for, how many jobs, and why this backend (None: it was asked for)."""

    plan: BuildPlan
    toolchain: Toolchain
    jobs: int
    choice: str | None


def plan_for(request: Request, pin: Pin, cache: Cache) -> Planned:
    """The plan for this machine.

    Raises:
        ToolchainError: it cannot build what is asked for.
        BuilderError: what is asked for makes no sense.
    """
    toolchain = detect()
    choice = choose_backend(toolchain) if request.backend == AUTO else None
    name = choice.backend if choice else request.backend
    wishes = replace(request.wishes, wheels=cache.root / "cuda")
    backend = BACKENDS[name]
    try:
        plan = make_plan(name=name, backend=backend, pin=pin, toolchain=toolchain, wishes=wishes)
    except ToolchainError as error:
        if choice is None or name == "cpu":
            raise
        raise ToolchainError(f"{error}; or build for the processor alone with --backend cpu") from None
    jobs = request.jobs or jobs_for(toolchain.host, backend.JOB_BYTES)
    return Planned(plan=plan, toolchain=toolchain, jobs=jobs, choice=choice.reason if choice else None)


def reusable(cache: Cache, pin: Pin) -> Path | None:
    """The manifest of the build in use, if it is at the pin and runs here. Needs no compiler.

    Its options count as far as every build has them; the others were chosen when it was built.
    """
    current = cache.current()
    if current is None or current[1].backend not in BACKENDS:
        return None
    path, manifest = current
    options = {one.name: one.value for one in common_options(pin)} | manifest.asked
    at_pin = (manifest.commit, manifest.patches) == (pin.commit, fingerprints(pin.patches))
    runs_here = manifest.cpu in {cpu_identity(), platform.machine()}
    return path if at_pin and runs_here and options.items() <= manifest.options.items() else None


def build(request: Request, *, pin: Pin, cache: Cache, reporter: Reporter) -> Path:
    """Build what is asked for unless it is there, make it the build in use, and return its manifest's path.

    Raises:
        BuilderError: the source, the toolchain or the compile failed; the build in use stays what it was.
    """
    planned = plan_for(request, pin, cache)
    plan = planned.plan
    if request.source:  # said to be used, so it must be right even if there is nothing left to build
        find_source(pin, explicit=request.source, cache=cache.root, say=reporter.say)
    with _locked(cache.lock_path(plan.key), reporter):
        finished = cache.finished(plan.key)
        if finished:
            path = finished[0]
        else:
            source = find_source(pin, explicit=request.source, cache=cache.root, say=reporter.say)
            path = _make(planned, source=source, cache=cache, reporter=reporter)
        cache.use(plan.key)
    return path


@contextlib.contextmanager
def _locked(path: Path, reporter: Reporter) -> Iterator[None]:
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        reporter.say("another build of the same is running: waiting for it")
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except OSError as error:
        raise BuilderError(
            f"cannot use the cache folder {path.parents[1]}: {error.strerror}; name another with RUNNER_CACHE_DIR"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _make(planned: Planned, *, source: Source, cache: Cache, reporter: Reporter) -> Path:
    plan = planned.plan
    for wheel in plan.wheels:
        fetch(wheel, say=reporter.say)
    why = f", because {planned.choice}" if planned.choice else ""
    reporter.say(f"compiling llama-server ({plan.backend}, {plan.compiler}) from {source.origin}{why}")
    began = time.monotonic()
    work = cache.compile_dir(plan.key, source.path)
    binary = compile_server(
        plan,
        source=source.path,
        work=work,
        toolchain=planned.toolchain,
        jobs=planned.jobs,
        reporter=reporter,
    )
    files = finish(plan, binary.parent)
    version = _version(binary)
    if version is None:
        raise BuilderError("the new llama-server does not start; build it again, or with another compiler (CXX)")
    manifest = Manifest(
        binary=files[0].name,
        sha256=sha256_of(files[0]),
        backend=plan.backend,
        commit=plan.commit,
        patches=fingerprints(plan.patches),
        origin=source.origin,
        options={option.name: option.value for option in plan.options},
        asked=plan.asked,
        compiler=plan.compiler,
        cpu=plan.cpu,
        version=version,
        duration_s=round(time.monotonic() - began, 1),
    )
    path = _install(files, manifest, cache.build_dir(plan.key))
    shutil.rmtree(work, ignore_errors=True)
    reporter.say(f"built in {manifest.duration_s:.0f} s: {path.parent / manifest.binary}")
    return path


def _version(binary: Path) -> str | None:
    """What the binary says of itself, or None: it does not start."""
    outcome = run([str(binary), "--version"], timeout_s=START_TIMEOUT_S)
    if not outcome.ok:
        return None
    return next((line for line in outcome.tail if line.startswith("version:")), outcome.last)


def _install(files: tuple[Path, ...], manifest: Manifest, destination: Path) -> Path:
    """Put binary, libraries and manifest in place by one rename."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=destination.parent, prefix="new-"))
    try:
        for file in files:
            shutil.copy2(file, staging)
        manifest.write(staging)
        staging.chmod(0o755)
        shutil.rmtree(destination, ignore_errors=True)
        staging.rename(destination)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise BuilderError(f"cannot install the build into {destination}: {error}; make room there") from None
    return destination / FILE_NAME


def prebuilt(directory: Path, *, cache: Cache) -> Path:
    """Write a manifest for a llama-server that somebody else built, and return its path.

    Raises:
        PrebuiltError: there is no llama-server in the folder, or it does not start.
    """
    places = [directory / place for place in PREBUILT_PLACES]
    binary = next((place for place in places if os.access(place, os.X_OK) and place.is_file()), None)
    if binary is None:
        looked = ", ".join(PREBUILT_PLACES)
        raise PrebuiltError(
            f"LLAMA_CPP_DIR is set, but {directory} holds no executable llama-server (looked for {looked}); "
            "name the folder of a llama.cpp build, or unset LLAMA_CPP_DIR to have one built"
        )
    version = _version(binary)
    if version is None:
        raise PrebuiltError(f"{binary} --version fails; build it again for this machine")
    manifest = Manifest(
        binary=str(binary.absolute()),
        sha256=sha256_of(binary),
        backend="prebuilt",
        commit=version.removeprefix("version: "),
        patches={},
        origin="LLAMA_CPP_DIR",
        options={},
        asked={},
        compiler="unknown",
        cpu=cpu_identity(),
        version=version,
        duration_s=0.0,
    )
    folder = cache.root / "prebuilt"
    folder.mkdir(parents=True, exist_ok=True)
    return manifest.write(folder)
