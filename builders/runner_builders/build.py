"""From a request to a finished build: find or make, verify that it works, install atomically."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from runner_builders.backends import BACKENDS
from runner_builders.cache import Cache
from runner_builders.compile import TARGET, compile_server, durations_of
from runner_builders.errors import BuilderError
from runner_builders.manifest import SBOM_NAME, Manifest, digests
from runner_builders.patches import fingerprints
from runner_builders.pin import Pin
from runner_builders.plan import BuildPlan, make_plan, options_for
from runner_builders.progress import Phase, Reporter
from runner_builders.sbom import sbom
from runner_builders.source import Source, find_source
from runner_builders.toolchain import Toolchain, cpu_identity, detect
from runner_builders.verify import Goldens, verify

LOCK_TIMEOUT_S = 4 * 3600.0
OUTPUTS = (TARGET, "*.so*", "*.dylib")


@dataclass(frozen=True, slots=True)
class Request:
    """What to build, from where (None: found by itself), with how many jobs (None: one per processor)."""

    backend: str = "cpu"
    source: Path | None = None
    jobs: int | None = None


def plan_for(request: Request, pin: Pin) -> tuple[BuildPlan, Toolchain]:
    """The plan for this machine."""
    toolchain = detect()
    backend = BACKENDS[request.backend]
    return make_plan(name=request.backend, backend=backend, pin=pin, toolchain=toolchain), toolchain


def reusable(cache: Cache, pin: Pin) -> Path | None:
    """The manifest of the build in use, if it is what would be built here but for the compiler. Needs none."""
    current = cache.current()
    if current is None or current[1].backend not in BACKENDS:
        return None
    path, manifest = current
    options = options_for(BACKENDS[manifest.backend], pin=pin, machine=platform.machine())
    wanted = (pin.commit, fingerprints(pin.patches), cpu_identity(), {one.name: one.value for one in options})
    return path if (manifest.commit, manifest.patches, manifest.cpu, manifest.options) == wanted else None


def build(request: Request, *, pin: Pin, goldens: Goldens, cache: Cache, reporter: Reporter) -> Path:
    """Build what is asked for unless it is there, make it the build in use, and return its manifest's path.

    Raises:
        BuilderError: source, toolchain, compile or verification failed; the build in use stays what it was.
    """
    plan, toolchain = plan_for(request, pin)
    if request.source:  # said to be used, so it must be right even if there is nothing left to build
        find_source(pin, explicit=request.source, cache=cache.root, say=reporter.say)
    with _locked(cache.lock_path(plan.key), reporter):
        finished = cache.finished(plan.key)
        if finished:
            path = finished[0]
        else:
            reporter.phase(Phase.SOURCE)
            try:
                source = find_source(pin, explicit=request.source, cache=cache.root, say=reporter.say)
                jobs = request.jobs or os.cpu_count() or 1
                path = _make(
                    plan,
                    source=source,
                    toolchain=toolchain,
                    jobs=jobs,
                    goldens=goldens,
                    cache=cache,
                    reporter=reporter,
                )
            except OSError as error:
                raise BuilderError(_no_room(cache, error)) from None
        cache.use(plan.key)
    return path


def _no_room(cache: Cache, error: OSError) -> str:
    return (
        f"cannot write into {cache.root}: {error.strerror or error}; make room there, for one with "
        "`runner-supervisor builds prune`, or name another folder with RUNNER_CACHE_DIR"
    )


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


def _make(
    plan: BuildPlan,
    *,
    source: Source,
    toolchain: Toolchain,
    jobs: int,
    goldens: Goldens,
    cache: Cache,
    reporter: Reporter,
) -> Path:
    reporter.say(f"building llama-server ({plan.backend}, {plan.compiler}) from {source.origin}")
    began = time.monotonic()
    work = cache.compile_dir(plan.key, source.path)
    out = compile_server(
        plan,
        source=source.path,
        work=work,
        toolchain=toolchain,
        jobs=jobs,
        took_s=cache.durations(),
        reporter=reporter,
    )
    with cache.staging(plan.key) as staging:
        for output in sorted({path for pattern in OUTPUTS for path in out.glob(pattern)}):
            shutil.copy2(output, staging / output.name)
        files = digests(staging)
        reporter.phase(Phase.VERIFY)
        verified = verify(staging / TARGET, goldens=goldens, promised="", gpu_present=False, say=reporter.say)
        reporter.phase(Phase.INSTALL)
        manifest = Manifest(
            binary=TARGET,
            files=files,
            backend=plan.backend,
            commit=plan.commit,
            patches=fingerprints(plan.patches),
            origin=source.origin,
            options={option.name: option.value for option in plan.options},
            compiler=plan.compiler,
            cpu=plan.cpu,
            verified=verified,
            duration_s=round(time.monotonic() - began, 1),
        )
        bill = sbom(manifest, patches=plan.patches, source=source.path, source_sha256=source.sha256)
        (staging / SBOM_NAME).write_text(bill, encoding="utf-8")
        manifest.write(staging)
        path = cache.install(staging, plan.key)
    cache.keep_durations(durations_of(work))
    shutil.rmtree(work, ignore_errors=True)
    reporter.say(f"built in {manifest.duration_s:.0f} s: {path.parent / TARGET}")
    return path
