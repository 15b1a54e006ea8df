"""The processor alone: this machine's, a kind of processor, or every kind at once."""

from __future__ import annotations

from runner_builders.errors import BuilderError
from runner_builders.plan import Option, Share, Wishes
from runner_builders.toolchain.values import Host, Toolchain

DEVICE = ""
JOB_BYTES = 600_000_000

NO_AMX = "-U__AMX_INT8__"
"""Takes back the macro by which ggml puts its AMX code in; unlike -mno-amx-*, every compiler knows it."""

X86_FEATURES = ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2", "AVX512")
X86_LEVELS = {"x86-64-v2": 1, "x86-64-v3": 6, "x86-64-v4": 7}
"""How many of the features a level of the x86-64 psABI has, as far as ggml asks."""


def share(toolchain: Toolchain, wishes: Wishes) -> Share:
    """Code for the processor, and on a Mac none for its GPU."""
    host = toolchain.host
    metal = Option("GGML_METAL", "OFF", _why_no_metal(host))
    return Share((*processor(host, wishes.arch, wishes), *([metal] if host.system == "darwin" else [])))


def _why_no_metal(host: Host) -> str:
    if host.is_apple_silicon:
        return "the processor alone was asked for"
    return "made for Apple silicon: llama.cpp's own builds for Intel Macs leave it out too"


def processor(host: Host, arch: tuple[str, ...], wishes: Wishes) -> tuple[Option, ...]:
    """The options of the processor's code, which every backend has beside its own.

    Raises:
        BuilderError: `arch` names no kind of processor of this machine's type.
    """
    return (*_target(host, arch, wishes), *(_without_amx() if host.is_x86_64 and host.system != "win32" else ()))


def _target(host: Host, arch: tuple[str, ...], wishes: Wishes) -> tuple[Option, ...]:
    if wishes.portable and arch:
        raise BuilderError("--portable builds for every processor and --arch for one; leave one of them out")
    if wishes.portable:
        return (
            Option("GGML_NATIVE", "OFF", "for other machines than this one"),
            Option("GGML_CPU_ALL_VARIANTS", "ON", "code for every kind of processor; the best is taken at run time"),
        )
    if not arch or arch == ("native",):
        return (Option("GGML_NATIVE", "ON", f"for this processor ({host.machine}) and no other"),)
    return _one_kind(host, arch)


def _one_kind(host: Host, arch: tuple[str, ...]) -> tuple[Option, ...]:
    wanted = ", ".join(arch)
    native = Option("GGML_NATIVE", "OFF", f"for {wanted}, not just this processor")
    if host.is_x86_64 and len(arch) == 1 and arch[0] in X86_LEVELS:
        level = X86_LEVELS[arch[0]]
        return (
            native,
            *(
                Option(f"GGML_{feature}", "ON" if place < level else "OFF", f"what {wanted} has")
                for place, feature in enumerate(X86_FEATURES)
            ),
        )
    if host.machine in {"aarch64", "arm64"} and len(arch) == 1 and arch[0].startswith("armv"):
        return (native, Option("GGML_CPU_ARM_ARCH", arch[0], "asked for as -march"))
    known = ", ".join(X86_LEVELS) if host.is_x86_64 else "what -march takes, as armv8.2-a+dotprod"
    raise BuilderError(f"--arch {wanted} is no processor of type {host.machine}; name native or one of: {known}")


def _without_amx() -> tuple[Option, ...]:
    crashes = "ggml's AMX code crashes with quantised weights (llama.cpp issue 20824, pull request 26954)"
    return tuple(Option(f"CMAKE_{language}_FLAGS_INIT", NO_AMX, crashes) for language in ("C", "CXX"))
