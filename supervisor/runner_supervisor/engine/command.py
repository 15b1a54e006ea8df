"""From settings to a command line and an environment for llama-server. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

DEMO_ARGS = ("--embeddings", "--pooling", "mean", "--n-predict", "256")
"""Outside a chat the demo model never ends a text by itself; and it shows off embeddings too."""

KEPT_ENV = frozenset({"HOME", "LANG", "LOGNAME", "PATH", "SYSTEMROOT", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME"})
KEPT_ENV_PREFIXES = (
    "CUDA_", "DYLD_", "GGML_", "GPU_", "HIP_", "HSA_", "LC_", "LD_", "MTL_", "NCCL_", "NVIDIA_", "OMP_", "ROCR_",
    "VK_",
)  # fmt: skip
"""What a compute backend may need. All else stays out, above all LLAMA_ARG_*, which would change the command
(common/arg.cpp reads one per flag), and whatever secrets the supervisor was given."""


ALIAS_FLAGS = frozenset({"--alias", "-a"})


def served_as(model: Path, extra: tuple[str, ...]) -> str:
    """The name by which llama-server knows the model: its alias, of several the first, else the file's name."""
    aliases = [value for flag, value in pairwise(extra) if flag in ALIAS_FLAGS]
    return aliases[-1].partition(",")[0] if aliases else model.stem


def engine_argv(*, binary: Path, model: Path, socket: Path, extra: tuple[str, ...]) -> list[str]:
    """The command line: the model, a Unix socket to listen on, metrics, then the user's own flags.

    A model and an address are always named: without a model llama-server becomes a router
    (tools/server/server.cpp:139-141), and its default port is announced to change. A `--host` that ends in
    `.sock` is a Unix socket (common/arg.cpp, `--host`). The alias keeps the
    file's path out of the names of models in answers.
    """
    return [
        str(binary),
        *("--model", str(model)),
        *(() if ALIAS_FLAGS & set(extra) else ("--alias", model.stem)),
        *("--host", str(socket)),
        *("--port", "8080"),
        "--metrics",
        *("--log-colors", "off"),
        *extra,
    ]


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables a child gets: those a compute backend may need, and no others.

    GGML_NO_BACKTRACE keeps an abort from starting a debugger, which would hold the process (ggml/src/ggml.c).
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name.upper() in KEPT_ENV or name.startswith(KEPT_ENV_PREFIXES)
    }
    return kept | {"GGML_NO_BACKTRACE": "1"}
