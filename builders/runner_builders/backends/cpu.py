"""The processor alone, tuned to this machine."""

from __future__ import annotations

from runner_builders.plan import Option

X86_64 = frozenset({"x86_64", "amd64"})
"""What Unix calls it. Windows says AMD64, and its compiler takes no AMX code of ggml's."""

NO_AMX = "-U__AMX_INT8__"
"""Takes back the macro by which ggml puts its AMX code in; unlike -mno-amx-*, every compiler knows it."""


def options(machine: str) -> tuple[Option, ...]:
    """Native code for the processor at hand, but for AMX, with which ggml crashes."""
    crashes = "ggml's AMX code crashes with quantised weights (llama.cpp issue 20824, pull request 26954)"
    without = [Option(f"CMAKE_{language}_FLAGS_INIT", NO_AMX, crashes) for language in ("C", "CXX")]
    return (
        Option("GGML_NATIVE", "ON", f"for this processor ({machine}) and no other"),
        Option("GGML_OPENMP", "OFF", "ggml's own threads do without an OpenMP library at run time"),
        *(without if machine in X86_64 else ()),
    )
