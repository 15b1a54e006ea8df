"""What `runner-supervisor check` finds: each thing that a start needs, whether it is there, and what to do if not.

Nothing is started or changed. What only the builder can see (compilers, toolkits, drivers, the build in use) comes
from its `toolchain` and `build --check` commands.
"""

from __future__ import annotations

import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runner_supervisor.engine.binary import EngineBinary, require_gpu
from runner_supervisor.engine.sizing import Sizing, mib
from runner_supervisor.errors import RunnerError
from runner_supervisor.front.listeners import bind_tcp
from runner_supervisor.front.tls import Certificate
from runner_supervisor.front.traces import tracing
from runner_supervisor.layout import Layout
from runner_supervisor.planning import model_of, sizing_of
from runner_supervisor.remote import Remote
from runner_supervisor.settings import Settings

OLDEST_PYTHON = (3, 11)
GIB = 1024**3
LOGS_BYTES = GIB
"""Logs take up to 150 MiB; a disk that has no more than this left fills up by other means soon."""

BUILD_BYTES = 2 * GIB
"""Source, objects and binary of a build for the CPU, with some room."""

OPEN_FILES = 4096
"""Two for each request at work, and some."""

NEEDED_TO_BUILD = frozenset({"compilers", "cmake", "ninja"})
"""What no backend can be built without."""


class Level(StrEnum):
    """How it stands: a start works, works but less well than it might, or does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and, unless all is well, what to do."""

    what: str
    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings, and the memory that the model takes, where that could be found out."""

    findings: tuple[Finding, ...]
    sizing: Sizing | None

    @property
    def works(self) -> bool:
        """Whether a start would work."""
        return all(finding.level is not Level.FAIL for finding in self.findings)


def examine(
    load: Callable[[], Settings], *, in_use: EngineBinary | RunnerError, machine_has: Mapping[str, Any]
) -> Examination:
    """Look at everything.

    Args:
        load: reads the settings. Where they are wrong, what depends on them is not looked at.
        in_use: the build in use; or why there is none, or it cannot be used.
        machine_has: see `builds`.
    """
    backend = in_use.backend if isinstance(in_use, EngineBinary) else in_use
    findings = [*machine(), *builds(machine_has, backend)]
    sizing = None
    try:
        settings = load()
    except RunnerError as error:
        findings.append(failure("settings", error))
    else:
        findings += [Finding("settings", Level.OK, "understood"), *service(settings, Layout(settings.state_dir))]
        if isinstance(in_use, EngineBinary) and not settings.allow_cpu:
            try:
                require_gpu(in_use)
            except RunnerError as error:
                findings.append(failure("GPU in use", error))
        try:
            sizing = sizing_of(settings, backend=backend if isinstance(backend, str) else "cpu")
        except RunnerError as error:
            findings.append(failure("model", error))
        else:
            findings += model(settings, sizing)
    return Examination(tuple(findings), sizing)


def failure(what: str, error: Exception) -> Finding:
    """What an error says: what happened before the first semicolon, what to do behind it."""
    found, _, advice = str(error).partition("; ")
    return Finding(what, Level.FAIL, found, advice)


def machine() -> Iterator[Finding]:
    """Python, whether it runs the front or compiled code does, and how many files may be open."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("Python", Level.FAIL, version, "install Python 3.11 or newer")
    else:
        yield Finding("Python", Level.OK, version)
    yield Finding("front", Level.OK, how_the_front_runs())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < OPEN_FILES:
        advice = f"raise the hard limit (ulimit -Hn, LimitNOFILE) to {OPEN_FILES} or more: each request takes two"
        yield Finding("open files", Level.WARN, str(most), advice)
    else:
        yield Finding("open files", Level.OK, "no limit" if most == resource.RLIM_INFINITY else str(most))


def how_the_front_runs() -> str:
    """Whether the wheel that was installed has the data path compiled; from a checkout it never is."""
    found = find_spec("runner_supervisor.front.protocol")  # not imported: only the service needs what that needs
    return "interpreted" if found is None or str(found.origin).endswith(".py") else "compiled"


def service(settings: Settings, layout: Layout) -> Iterator[Finding]:
    """Keys, certificate, traces, address and state folder."""
    try:
        given = len(settings.given_keys())
    except RunnerError as error:
        yield failure("keys", error)
    else:
        yield Finding("keys", Level.OK, _keys(settings, layout, given))
    if settings.tls_cert and settings.tls_key:
        try:
            Certificate(settings.tls_cert, settings.tls_key)
        except RunnerError as error:
            yield failure("certificate", error)
        else:
            yield Finding("certificate", Level.OK, str(settings.tls_cert))
    if settings.traces_url:
        try:
            with tracing(settings):
                yield Finding("traces", Level.OK, f"to {settings.traces_url}")
        except RunnerError as error:
            yield failure("traces", error)
    yield _address(settings, layout)
    yield _disk("disk for logs", settings.state_dir, LOGS_BYTES, "make room, or name another folder with --state-dir")


def model(settings: Settings, sizing: Sizing) -> Iterator[Finding]:
    """The model file, and the memory it takes."""
    path = model_of(settings)
    yield Finding("model", Level.OK, f"{path}, {mib(path.stat().st_size)}")
    try:
        sizing.require()
    except RunnerError as error:
        yield failure("memory", error)
    else:
        needed, free = sizing.fit.estimate.working_bytes, sizing.free
        yield Finding("memory", Level.OK, f"{mib(needed)} needed, {mib(free.host_bytes)} of {free.host_limit} free")


def builds(machine_has: Mapping[str, Any], in_use: str | RunnerError) -> Iterator[Finding]:
    """llama-server, or what is needed to build it.

    Args:
        machine_has: what the builder's `toolchain` command found.
        in_use: the backend of the build in use; or why there is none, or it cannot be used.
    """
    can_build: Mapping[str, Any] = machine_has["backends"]["cpu"]
    if isinstance(in_use, str):
        yield Finding("llama-server", Level.OK, f"built for {in_use}")
    elif can_build["can_build"]:
        found, _, advice = str(in_use).partition("; ")
        yield Finding("llama-server", Level.WARN, found, advice)
    else:
        yield failure("llama-server", in_use)
    for name, part in machine_has["found"].items():
        if part["present"]:
            yield Finding(name, Level.OK, part["words"])
        elif name in NEEDED_TO_BUILD:
            found, _, advice = part["words"].partition("; ")
            yield Finding(name, Level.WARN if isinstance(in_use, str) else Level.FAIL, found, advice)
    best = machine_has["auto"]
    if in_use == "cpu" and best["backend"] != "cpu":
        advice = f"`runner-supervisor build --backend {best['backend']}` makes one that uses it"
        found = f"{best['reason']}; the llama-server in use computes on the processor"
        yield Finding("GPU", Level.WARN, found, advice)
    else:
        yield Finding("GPU", Level.OK, best["reason"])
    if not isinstance(in_use, str):
        cache = Path(machine_has["cache"])
        yield _disk("disk for a build", cache, BUILD_BYTES, "make room, or name another folder with RUNNER_CACHE_DIR")


def _keys(settings: Settings, layout: Layout, given: int) -> str:
    if given:
        return f"{given} given in {' and '.join(settings.keys_given_in)}"
    if layout.keys.exists():
        return f"in {layout.keys}"
    if settings.on_loopback:
        return "none, and none needed on a loopback address"
    return "none needed, as insecure_no_auth says" if settings.insecure_no_auth else "none yet: the start makes one"


def _address(settings: Settings, layout: Layout) -> Finding:
    try:
        if layout.locked:
            running = Remote(layout).status()
            found = f"{running['address']}, served by process {running['pid']}"
            if urlsplit(running["address"]).port == settings.port:
                return Finding("address", Level.OK, found)
            advice = "stop it first, or give a start on another port a folder of its own with --state-dir"
            return Finding("address", Level.FAIL, f"this state folder has a supervisor: {found}", advice)
        bind_tcp(settings.host, settings.port).close()
    except RunnerError as error:
        return failure("address", error)
    return Finding("address", Level.OK, f"{settings.host}:{settings.port} is free")


def _disk(what: str, folder: Path, needed_bytes: int, advice: str) -> Finding:
    present = next(each for each in (folder, *folder.parents) if each.exists())
    free_bytes = shutil.disk_usage(present).free
    found = f"{mib(free_bytes)} free at {folder}"
    return Finding(what, Level.OK, found) if free_bytes >= needed_bytes else Finding(what, Level.WARN, found, advice)
