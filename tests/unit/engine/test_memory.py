"""Free memory: every limit that holds is found, wherever its cgroup is mounted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from runner_supervisor.engine.memory import cpu_features, free_memory, oom_kills

GIB = 1 << 30
V1_MOUNT = "35 31 0:32 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2_MOUNT = "41 31 0:38 {root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the driver."""

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)


def put(root: Path, **files: str | int) -> None:
    """Write files below `root`; `__` in a name is a `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))


def cgroup(folder: Path, *, version: int, limit: int | str, usage: int, reclaimable: int = 0, kills: int = 0) -> None:
    """A memory cgroup's files."""
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "memory.oom_control"),
        2: ("memory.max", "memory.current", "", "memory.events"),
    }[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(
        f"cache 1\n{names[2]}inactive_file {reclaimable // 2}\n{names[2]}active_file {reclaimable // 2}\n"
    )
    (folder / names[3]).write_text(f"under_oom 0\noom_kill {kills}\n")


def test_without_cgroups_the_machine_is_the_limit(tmp_path: Path) -> None:
    free = free_memory(root=tmp_path, machine_bytes=7 * GIB)
    assert (free.host_bytes, free.host_limit, free.gpu_bytes) == (7 * GIB, "this machine", ())
    assert free_memory(root=tmp_path).host_bytes > 0


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroups_limit_counts_page_cache_as_free(tmp_path: Path, version: int) -> None:
    mount, line, top = {
        1: (V1_MOUNT, "4:memory:/job\n0::/\n", "sys/fs/cgroup/memory"),
        2: (V2_MOUNT, "0::/job\n", "sys/fs/cgroup"),
    }[version]
    put(tmp_path, proc__self__mountinfo=mount.format(root="/"), proc__self__cgroup=line)
    cgroup(tmp_path / top / "job", version=version, limit=4 * GIB, usage=3 * GIB, reclaimable=GIB)
    free = free_memory(root=tmp_path, machine_bytes=7 * GIB)
    assert (free.host_bytes, free.host_limit) == (2 * GIB, "the memory cgroup")


def test_a_limit_further_up_holds_too(tmp_path: Path) -> None:
    put(tmp_path, proc__self__mountinfo=V2_MOUNT.format(root="/"), proc__self__cgroup="0::/slice/job/task\n")
    top = tmp_path / "sys/fs/cgroup"
    cgroup(top / "slice/job/task", version=2, limit="max", usage=GIB)
    cgroup(top / "slice/job", version=2, limit=8 * GIB, usage=GIB)
    cgroup(top / "slice", version=2, limit=3 * GIB, usage=2 * GIB)
    assert free_memory(root=tmp_path, machine_bytes=16 * GIB).host_bytes == GIB


@pytest.mark.parametrize("seen", ["/", "/docker/abc", "/../.."])
def test_in_a_container_the_mounts_root_is_its_own_cgroup(tmp_path: Path, seen: str) -> None:
    put(tmp_path, proc__self__mountinfo=V2_MOUNT.format(root=seen), proc__self__cgroup="0::/docker/abc\n")
    cgroup(tmp_path / "sys/fs/cgroup", version=2, limit=2 * GIB, usage=GIB)
    assert free_memory(root=tmp_path, machine_bytes=16 * GIB).host_bytes == GIB


def test_a_cgroup_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    put(tmp_path, proc__self__mountinfo=V2_MOUNT.format(root="/"), proc__self__cgroup="0::/\n")
    cgroup(tmp_path / "sys/fs/cgroup", version=2, limit=GIB, usage=2 * GIB)
    assert free_memory(root=tmp_path, machine_bytes=16 * GIB).host_bytes == 0


def test_no_limit_in_either_version_is_no_limit(tmp_path: Path) -> None:
    put(
        tmp_path,
        proc__self__mountinfo=V1_MOUNT.format(root="/") + V2_MOUNT.format(root="/"),
        proc__self__cgroup="4:memory:/\n0::/\nnonsense\n",
    )
    cgroup(tmp_path / "sys/fs/cgroup/memory", version=1, limit=0x7FFF_FFFF_FFFF_F000, usage=GIB)
    assert free_memory(root=tmp_path, machine_bytes=16 * GIB).host_limit == "this machine"


def test_kills_are_counted_by_the_cgroup_of_the_process_asked_for(tmp_path: Path) -> None:
    put(tmp_path, proc__self__mountinfo=V1_MOUNT.format(root="/"), proc__self__cgroup="4:memory:/mine\n")
    put(tmp_path, proc__77__cgroup="4:memory:/its\n", proc__vmstat="oom_kill 9\n")
    cgroup(tmp_path / "sys/fs/cgroup/memory/mine", version=1, limit=GIB, usage=0, kills=1)
    cgroup(tmp_path / "sys/fs/cgroup/memory/its", version=1, limit=GIB, usage=0, kills=5)
    assert (oom_kills(None, root=tmp_path), oom_kills(77, root=tmp_path)) == (1, 5)
    assert oom_kills(78, root=tmp_path) == 1  # gone, so where this process lives


def test_kills_are_else_counted_by_the_machine_or_by_nobody(tmp_path: Path) -> None:
    assert oom_kills(None, root=tmp_path) is None
    put(tmp_path, proc__vmstat="nr_free_pages 1\noom_kill 9\n")
    assert oom_kills(77, root=tmp_path) == 9


def test_gpus_are_asked_for_what_they_have_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: ended.append(True))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda index: SimpleNamespace(free=(index + 1) * GIB))
    assert free_memory(root=tmp_path, machine_bytes=GIB).gpu_bytes == (GIB, 2 * GIB)
    assert ended == [True]


def test_a_gpu_that_fails_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lost)
    assert free_memory(root=tmp_path, machine_bytes=GIB).gpu_bytes == ()


def test_the_cpus_instruction_sets_are_those_linux_names(tmp_path: Path) -> None:
    assert cpu_features(root=tmp_path) == frozenset()
    put(tmp_path, proc__cpuinfo="processor\t: 0\nflags\t\t: fpu avx2\n")
    assert cpu_features(root=tmp_path) == {"fpu", "avx2"}
    put(tmp_path, proc__cpuinfo="processor\t: 0\nFeatures\t: asimd asimddp\n")
    assert "asimddp" in cpu_features(root=tmp_path)
