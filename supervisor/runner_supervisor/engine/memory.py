"""What memory there is: of the machine, of every memory cgroup this process lives in, of the GPUs.

A cgroup's limit counts as much as the machine's memory does, and so does every limit above it; page cache the
kernel would drop first counts as free. Both versions of cgroups are read from where they are mounted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil
import pynvml

from runner_supervisor.core.fitting import Free

ROOT = Path("/")
THIS_MACHINE = "this machine"
A_CGROUP = "the memory cgroup"


@dataclass(frozen=True)
class Dialect:
    """The names of a memory cgroup's files, and what comes before names in memory.stat, which differ by version."""

    limit: str
    usage: str
    prefix: str
    events: str


V1 = Dialect("memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "memory.oom_control")
V2 = Dialect("memory.max", "memory.current", "", "memory.events")

PAGE_CACHE = ("inactive_file", "active_file")
"""What counts as used in memory.stat though the kernel takes it back: files that were read, a model's above all."""


def free_memory(*, root: Path = ROOT, machine_bytes: int | None = None) -> Free:
    """What is free now, for a process started by this one.

    Args:
        root: where `proc` and `sys` are.
        machine_bytes: what the whole machine has available; asked of the system if not given.
    """
    machine = psutil.virtual_memory().available if machine_bytes is None else machine_bytes
    bounds = [(machine, THIS_MACHINE)]
    for folder, dialect in _memory_cgroups("self", root):
        free = _free_in(folder, dialect)
        if free is not None:
            bounds.append((free, A_CGROUP))
    host_bytes, host_limit = min(bounds, key=lambda bound: bound[0])
    return Free(host_bytes=host_bytes, host_limit=host_limit, gpu_bytes=_gpus())


def oom_kills(pid: int | None, *, root: Path = ROOT) -> int | None:
    """How many processes the kernel has killed for want of memory where `pid` lives.

    Counted by its memory cgroup, or, where that does not count, by the whole machine (Linux 4.13 and later). A
    process that is gone is looked for where this one lives, as a child's cgroup is its parent's.

    Args:
        pid: a process; None: this one.
        root: where `proc` and `sys` are.

    Returns:
        The count, None where nobody counts.
    """
    for process in ("self",) if pid is None else (str(pid), "self"):
        for folder, dialect in _memory_cgroups(process, root):
            kills = _numbers(folder / dialect.events).get("oom_kill")
            if kills is not None:
                return kills
    return _numbers(root / "proc/vmstat").get("oom_kill")


def cpu_features(*, root: Path = ROOT) -> frozenset[str]:
    """The CPU's instruction sets as Linux names them; none where it does not say."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def _free_in(folder: Path, dialect: Dialect) -> int | None:
    """What a cgroup would still give; None if it has no limit."""
    limit, usage = _text(folder / dialect.limit).strip(), _text(folder / dialect.usage).strip()
    if not limit.isdecimal() or not usage.isdecimal():
        return None
    counts = _numbers(folder / "memory.stat")
    reclaimable = sum(counts.get(dialect.prefix + name, 0) for name in PAGE_CACHE)
    return max(0, int(limit) - max(0, int(usage) - reclaimable))


def _memory_cgroups(process: str, root: Path) -> Iterator[tuple[Path, Dialect]]:
    """The memory cgroups of a process, its own first, then those above it.

    A container's own path may not exist under the mount it sees: then that mount's root is its own.
    """
    for line in _text(root / "proc" / process / "cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            dialect, mount = V1, _mount(root, "cgroup", "memory")
        elif number == "0" and not controllers:
            dialect, mount = V2, _mount(root, "cgroup2", "")
        else:
            continue
        if mount is None:
            continue
        top, seen_from = mount
        own = PurePosixPath(path)
        inside = own.relative_to(seen_from) if own.is_relative_to(seen_from) else PurePosixPath()
        folder = top / inside
        folder = folder if ".." not in inside.parts and folder.is_dir() else top
        while True:
            yield folder, dialect
            if folder == top:
                break
            folder = folder.parent


def _mount(root: Path, kind: str, option: str) -> tuple[Path, PurePosixPath] | None:
    """Where a cgroup hierarchy is mounted, and which of its cgroups is seen there (proc(5), mountinfo)."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        known = len(fields) > 4 and len(kinds) > 2 and kinds[0] == kind
        if known and (not option or option in kinds[2].split(",")):
            return root / fields[4].lstrip("/"), PurePosixPath(fields[3])
    return None


def _numbers(path: Path) -> Mapping[str, int]:
    """A file of lines `name number`."""
    pairs = (line.split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _text(path: Path) -> str:
    """A file's text; nothing if it cannot be read, as most of these are missing on some system."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _gpus() -> tuple[int, ...]:
    """Free memory of each NVIDIA GPU that CUDA_VISIBLE_DEVICES, if it has numbers, leaves; none without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        numbers: Sequence[int] = range(pynvml.nvmlDeviceGetCount())
        if visible is not None and all(part.strip().lstrip("-").isdecimal() for part in visible.split(",")):
            numbers = [int(part) for part in visible.split(",") if int(part) in numbers]
        handles = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in numbers)
        return tuple(int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) for handle in handles)
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
