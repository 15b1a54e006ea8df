"""From a request to a finished build: find or make, verify that it works, install atomically."""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from filelock import FileLock, Timeout

from runner_builders.auto import choose_backend
from runner_builders.backends import BACKENDS
from runner_builders.cache import Cache
from runner_builders.compile import compile_server, durations_of
from runner_builders.errors import BuilderError, ToolchainError
from runner_builders.finish import finish
from runner_builders.manifest import SBOM_NAME, Manifest, digests
from runner_builders.patches import fingerprints
from runner_builders.pin import Pin
from runner_builders.plan import BuildPlan, Wishes, common_options, jobs_for, make_plan
from runner_builders.progress import Phase, Reporter
from runner_builders.sbom import sbom
from runner_builders.source import Source, find_source
from runner_builders.toolchain import Toolchain, cpu_identity, detect
from runner_builders.verify import Goldens, verify
from runner_builders.wheels import fetch

AUTO = "auto"
LOCK_TIMEOUT_S = 4 * 3600.0


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


def build(request: Request, *, pin: Pin, goldens: Goldens, cache: Cache, reporter: Reporter) -> Path:
    """Build what is asked for unless it is there, make it the build in use, and return its manifest's path.

    Raises:
        BuilderError: source, toolchain, compile or verification failed; the build in use stays what it was.
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
            reporter.phase(Phase.SOURCE)
            try:
                source = find_source(pin, explicit=request.source, cache=cache.root, say=reporter.say)
                path = _make(planned, source=source, goldens=goldens, cache=cache, reporter=reporter)
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


def _make(planned: Planned, *, source: Source, goldens: Goldens, cache: Cache, reporter: Reporter) -> Path:
    plan = planned.plan
    for wheel in plan.wheels:
        fetch(wheel, say=reporter.say)
    why = f", because {planned.choice}" if planned.choice else ""
    reporter.say(f"building llama-server ({plan.backend}, {plan.compiler}) from {source.origin}{why}")
    began = time.monotonic()
    work = cache.compile_dir(plan.key, source.path)
    out = compile_server(
        plan,
        source=source.path,
        work=work,
        toolchain=planned.toolchain,
        jobs=planned.jobs,
        took_s=cache.durations(),
        reporter=reporter,
    )
    outputs = finish(plan, out)
    with cache.staging(plan.key) as staging:
        for output in outputs:
            shutil.copy2(output, staging)
        binary = staging / outputs[0].name
        reporter.phase(Phase.VERIFY)
        verified = verify(
            binary, goldens=goldens, promised=plan.device, gpu_present=plan.device_present, say=reporter.say
        )
        reporter.phase(Phase.INSTALL)
        manifest = Manifest(
            binary=binary.name,
            files=digests(staging),
            backend=plan.backend,
            commit=plan.commit,
            patches=fingerprints(plan.patches),
            origin=source.origin,
            options={option.name: option.value for option in plan.options},
            asked=plan.asked,
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
    reporter.say(f"built in {manifest.duration_s:.0f} s: {path.parent / manifest.binary}")
    return path
