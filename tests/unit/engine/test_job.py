"""Job Objects, on a kernel32 that writes down what it is asked: no test of ours runs on Windows."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from runner_supervisor.engine.job import EXTENDED_LIMIT_INFORMATION, LIMIT_KILL_ON_JOB_CLOSE, ExtendedLimits, Job

JOB, PROCESS = 0x1234, 0x5678


class Kernel:
    """The four calls. `refuses`: the one that fails."""

    def __init__(self, refuses: str = "") -> None:
        self.asked: list[tuple[str, Any]] = []
        self.CreateJobObjectW = self._call("CreateJobObject", refuses, lambda *_: None, JOB)
        self.SetInformationJobObject = self._call("SetInformationJobObject", refuses, self._limits)
        self.AssignProcessToJobObject = self._call("AssignProcessToJobObject", refuses, self._values)
        self.TerminateJobObject = self._call("TerminateJobObject", refuses, lambda job, code: (job.value, code))

    def _call(self, name: str, refuses: str, note: Any, result: int = 1) -> Any:
        def call(*arguments: Any) -> int:
            self.asked.append((name, note(*arguments)))
            return 0 if name == refuses else result

        return call

    @staticmethod
    def _limits(job: Any, what: int, limits: Any, size: int) -> tuple[int, int, int, int]:
        return job.value, what, limits._obj.basic.limit_flags, size

    @staticmethod
    def _values(job: Any, process: Any) -> tuple[int, int]:
        return job.value, process.value


def job(kernel: Kernel) -> Job:
    process: Any = SimpleNamespace(_handle=PROCESS)
    return Job(process, kernel=kernel)


def test_a_process_is_held_by_a_job_that_ends_with_us() -> None:
    kernel = Kernel()
    job(kernel).end()
    assert kernel.asked == [
        ("CreateJobObject", None),
        (
            "SetInformationJobObject",
            (JOB, EXTENDED_LIMIT_INFORMATION, LIMIT_KILL_ON_JOB_CLOSE, ctypes.sizeof(ExtendedLimits)),
        ),
        ("AssignProcessToJobObject", (JOB, PROCESS)),
        ("TerminateJobObject", (JOB, 1)),
    ]


def test_the_structure_has_the_size_that_64_bit_windows_expects() -> None:
    assert ctypes.sizeof(ExtendedLimits) == 144


@pytest.mark.parametrize("call", ["CreateJobObject", "SetInformationJobObject", "AssignProcessToJobObject"])
def test_a_refusal_is_an_error(call: str) -> None:
    with pytest.raises(OSError, match=f"{call} failed"):
        job(Kernel(refuses=call))
