"""Windows' Job Objects: a process and all that it starts end together, at the latest when we do.

Elsewhere process groups and PR_SET_PDEATHSIG do that. Structures and constants: winnt.h.
"""

from __future__ import annotations

import ctypes
import subprocess
from typing import Any

EXTENDED_LIMIT_INFORMATION = 9
LIMIT_KILL_ON_JOB_CLOSE = 0x2000
EXIT_CODE = 1


class BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = (
        ("per_process_user_time_limit", ctypes.c_int64),
        ("per_job_user_time_limit", ctypes.c_int64),
        ("limit_flags", ctypes.c_uint32),
        ("minimum_working_set_size", ctypes.c_size_t),
        ("maximum_working_set_size", ctypes.c_size_t),
        ("active_process_limit", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority_class", ctypes.c_uint32),
        ("scheduling_class", ctypes.c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION. `io_info`: IO_COUNTERS."""

    _fields_ = (
        ("basic", BasicLimits),
        ("io_info", ctypes.c_uint64 * 6),
        ("process_memory_limit", ctypes.c_size_t),
        ("job_memory_limit", ctypes.c_size_t),
        ("peak_process_memory_used", ctypes.c_size_t),
        ("peak_job_memory_used", ctypes.c_size_t),
    )


class Job:
    """Holds one process and its descendants. Windows ends them when the last handle to it closes, as ours does when
    we die, however that happens.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, kernel: Any) -> None:
        """Put a process that was just made into a job of its own.

        Args:
            process: the process; what it started before belongs to no job.
            kernel: `ctypes.WinDLL("kernel32", use_last_error=True)`.

        Raises:
            OSError: Windows refuses.
        """
        kernel.CreateJobObjectW.restype = ctypes.c_void_p
        self._kernel = kernel
        self._handle = ctypes.c_void_p(_granted(kernel.CreateJobObjectW(None, None), "CreateJobObject"))
        limits = ExtendedLimits(basic=BasicLimits(limit_flags=LIMIT_KILL_ON_JOB_CLOSE))
        size = ctypes.sizeof(limits)
        done = kernel.SetInformationJobObject(self._handle, EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), size)
        _granted(done, "SetInformationJobObject")
        handle = ctypes.c_void_p(int(vars(process)["_handle"]))
        _granted(kernel.AssignProcessToJobObject(self._handle, handle), "AssignProcessToJobObject")

    def end(self) -> None:
        """End them all, now: Windows has nothing that asks."""
        self._kernel.TerminateJobObject(self._handle, EXIT_CODE)


def _granted(result: int | None, call: str) -> int:
    if not result:
        raise OSError(f"{call} failed")
    return result
