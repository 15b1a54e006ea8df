"""What llama-server's flags ask for: its settings that decide how much memory it takes. Pure.

Flags are read as llama-server reads them (common/arg.cpp), its defaults included (common/common.h), so that a
flag which is not given means here what it means there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

DEFAULT_BATCH = 2048
DEFAULT_UBATCH = 512
AUTO_PARALLEL = 4
"""Slots when the user names no number; they share one KV cache then (tools/server/server.cpp)."""
DEFAULT_CACHE_RAM_MIB = 8192
DEFAULT_CHECKPOINTS = 32
DEFAULT_CHECKPOINT_STEP = 8192
ALL_LAYERS = 1 << 20
"""`--gpu-layers all`: more than any model has."""

FALSE_WORDS = frozenset({"off", "disabled", "false", "0"})
"""What `is_falsey` takes (common/arg.cpp)."""

VALUED: Mapping[str, str] = {
    "-c": "ctx", "--ctx-size": "ctx",
    "-np": "parallel", "--parallel": "parallel",
    "--kv-unified-per-slot": "per_slot",
    "-ctk": "cache_type_k", "--cache-type-k": "cache_type_k",
    "-ctv": "cache_type_v", "--cache-type-v": "cache_type_v",
    "-b": "batch", "--batch-size": "batch",
    "-ub": "ubatch", "--ubatch-size": "ubatch",
    "-cram": "cache_ram", "--cache-ram": "cache_ram",
    "-ctxcp": "checkpoints", "--ctx-checkpoints": "checkpoints", "--swa-checkpoints": "checkpoints",
    "-cms": "checkpoint_step", "--checkpoint-min-step": "checkpoint_step",
    "-ngl": "gpu_layers", "--gpu-layers": "gpu_layers", "--n-gpu-layers": "gpu_layers",
    "-lm": "load_mode", "--load-mode": "load_mode",
    "-fa": "flash", "--flash-attn": "flash",
    "-fit": "fit", "--fit": "fit",
    "--pooling": "pooling",
}  # fmt: skip
"""Flags with a value, by what they set."""

SWITCHES: Mapping[str, tuple[str, str]] = {
    "-kvu": ("unified", "on"), "--kv-unified": ("unified", "on"),
    "-no-kvu": ("unified", "off"), "--no-kv-unified": ("unified", "off"),
    "--mmap": ("load_mode", "mmap"), "--no-mmap": ("load_mode", "none"),
    "--repack": ("repack", "on"), "-nr": ("repack", "off"), "--no-repack": ("repack", "off"),
    "--swa-full": ("swa_full", "on"),
    "-kvo": ("kv_offload", "on"), "--kv-offload": ("kv_offload", "on"),
    "-nkvo": ("kv_offload", "off"), "--no-kv-offload": ("kv_offload", "off"),
    "--embedding": ("embeddings", "on"), "--embeddings": ("embeddings", "on"),
    "--rerank": ("embeddings", "on"), "--reranking": ("embeddings", "on"),
}  # fmt: skip
"""Flags without a value: what they set, and to what."""


@dataclass(frozen=True)
class Demand:
    """The settings llama-server would run with.

    Attributes:
        ctx_tokens: the whole context, all slots together; None: the model's own (`--ctx-size` absent or 0).
        parallel: slots.
        kv_unified: the slots share one KV cache.
        cache_type_k: ggml type of cached keys, as llama-server spells it.
        cache_type_v: ggml type of cached values.
        batch: tokens submitted together.
        ubatch: tokens computed together.
        cache_ram_mib: the prompt cache's limit; -1: none; None: the user did not say.
        gpu_layers: layers to put on GPUs; None: llama-server decides.
        mmap: the model file is mapped, not read.
        flash: flash attention may be used.
        repack: weights may be copied into a layout the CPU multiplies faster.
        swa_full: sliding-window layers cache the whole context.
        kv_offload: a GPU layer's KV cache is on the GPU.
        embeddings: every token of a batch has an output.
        fits_itself: llama-server adapts what the user left open (`--fit`).
        checkpoints: most context checkpoints per slot.
        checkpoint_step: least distance between two of them, in tokens.
        gpus: GPUs the build uses.
        cpu: instruction sets of the CPU, as the operating system names them.
    """

    ctx_tokens: int | None = None
    parallel: int = AUTO_PARALLEL
    kv_unified: bool = True
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    batch: int = DEFAULT_BATCH
    ubatch: int = DEFAULT_UBATCH
    cache_ram_mib: int | None = None
    gpu_layers: int | None = None
    mmap: bool = True
    flash: bool = True
    repack: bool = True
    swa_full: bool = False
    kv_offload: bool = True
    embeddings: bool = False
    fits_itself: bool = True
    checkpoints: int = DEFAULT_CHECKPOINTS
    checkpoint_step: int = DEFAULT_CHECKPOINT_STEP
    gpus: int = 0
    cpu: frozenset[str] = frozenset()


def demand_of(flags: Sequence[str], *, gpus: int = 0, cpu: frozenset[str] = frozenset()) -> Demand:
    """Read what `flags`, the user's for llama-server, ask for.

    The last of several wins; `--flag=value` is read too, and `_` in a long flag as `-`. A value that
    is no number leaves the default: llama-server itself refuses it, with its own message.
    """
    told = dict(_settings(flags))

    def number(name: str, default: int) -> int:
        try:
            return int(told[name])
        except (KeyError, ValueError):
            return default

    def on(name: str, *, default: bool) -> bool:
        return told[name] not in FALSE_WORDS if name in told else default

    parallel = number("parallel", -1)
    slots = parallel if parallel > 0 else AUTO_PARALLEL
    ubatch = max(1, number("ubatch", DEFAULT_UBATCH))
    batch = max(1, number("batch", DEFAULT_BATCH))
    embeddings = on("embeddings", default=told.get("pooling", "none") != "none")
    return Demand(
        ctx_tokens=max(0, number("ctx", 0)) or (max(0, number("per_slot", 0)) * slots) or None,
        parallel=slots,
        kv_unified=on("unified", default=False) or parallel <= 0,
        cache_type_k=told.get("cache_type_k", "f16"),
        cache_type_v=told.get("cache_type_v", "f16"),
        batch=min(batch, ubatch) if embeddings else batch,
        ubatch=min(ubatch, batch),
        cache_ram_mib=number("cache_ram", DEFAULT_CACHE_RAM_MIB) if "cache_ram" in told else None,
        gpu_layers=_gpu_layers(told.get("gpu_layers", "auto")),
        mmap=told.get("load_mode", "auto") in {"auto", "mmap", "mmap+mlock"},
        flash=on("flash", default=True),
        repack=on("repack", default=True),
        swa_full=on("swa_full", default=False),
        kv_offload=on("kv_offload", default=True),
        embeddings=embeddings,
        fits_itself=on("fit", default=True),
        checkpoints=max(0, number("checkpoints", DEFAULT_CHECKPOINTS)),
        checkpoint_step=max(0, number("checkpoint_step", DEFAULT_CHECKPOINT_STEP)),
        gpus=gpus,
        cpu=cpu,
    )


def _settings(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    remaining = iter(flags)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")
        if flag in SWITCHES:
            yield SWITCHES[flag]
        elif flag in VALUED:
            yield VALUED[flag], value if equals else next(remaining, "")


def _gpu_layers(value: str) -> int | None:
    if value == "all":
        return ALL_LAYERS
    try:
        layers = int(value)
    except ValueError:
        return None
    return {-1: None}.get(layers, ALL_LAYERS if layers < 0 else layers)
