"""What this machine has to build with, as typed values: found or missing, with what to do about it."""

from runner_builders.toolchain.detect import detect
from runner_builders.toolchain.host import cpu_identity
from runner_builders.toolchain.values import (
    Apple,
    Compilers,
    Cuda,
    Driver,
    Gpu,
    Host,
    Missing,
    Tool,
    Toolchain,
    Tools,
    require,
)

__all__ = [
    "Apple",
    "Compilers",
    "Cuda",
    "Driver",
    "Gpu",
    "Host",
    "Missing",
    "Tool",
    "Toolchain",
    "Tools",
    "cpu_identity",
    "detect",
    "require",
]
