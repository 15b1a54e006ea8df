"""Shapes and demands for tests: plain ones to change, and any at all."""

from __future__ import annotations

from hypothesis import strategies as st

from runner_supervisor.core.demand import Demand
from runner_supervisor.core.shape import OUTPUT, TOKEN_EMBEDDING, Layer, ModelShape, Tensor

EMBEDDING, FEED_FORWARD, VOCABULARY = 512, 1024, 32_000


def tensors(layers: int, kind: str = "f16", bits: int = 16) -> tuple[Tensor, ...]:
    """The weights of a model of `layers` layers, one after the other in one file."""
    dims = {
        TOKEN_EMBEDDING: (EMBEDDING, VOCABULARY),
        OUTPUT: (EMBEDDING, VOCABULARY),
        **{f"blk.{layer}.attn_q.weight": (EMBEDDING, EMBEDDING) for layer in range(layers)},
        **{f"blk.{layer}.ffn_up.weight": (EMBEDDING, FEED_FORWARD) for layer in range(layers)},
        "output_norm.weight": (EMBEDDING,),
    }
    made: list[Tensor] = []
    offset = 4096
    for name, sizes in dims.items():
        rows = sizes[1] if len(sizes) > 1 else 1
        size_bytes = sizes[0] * rows * (bits if len(sizes) > 1 else 32) // 8
        made.append(Tensor(name, kind if len(sizes) > 1 else "f32", sizes, size_bytes, 0, offset))
        offset += size_bytes
    return tuple(made)


def shape(
    *,
    layers: int = 4,
    context_tokens: int = 32_768,
    window: int = 0,
    windowed: bool = False,
    state_bytes: int = 0,
    kind: str = "f16",
    experts: int = 0,
) -> ModelShape:
    """A model with 8 query heads and 2 for keys and values, 64 wide each."""
    return ModelShape(
        architecture="llama",
        context_tokens=context_tokens,
        embedding=EMBEDDING,
        feed_forward=FEED_FORWARD,
        heads=8,
        query=512,
        vocabulary=VOCABULARY,
        merges=0,
        layers=tuple(Layer(128, 128, windowed and number % 2 == 0, state_bytes) for number in range(layers)),
        window=window,
        experts=experts,
        experts_used=min(experts, 2),
        expert_feed_forward=FEED_FORWARD,
        tensors=tensors(layers, kind),
        file_bytes=(1 << 30,),
    )


shapes = st.builds(
    shape,
    layers=st.integers(1, 12),
    context_tokens=st.integers(256, 200_000),
    window=st.integers(1, 8192),
    windowed=st.booleans(),
    state_bytes=st.integers(0, 100_000),
    experts=st.sampled_from([0, 8]),
)
demands = st.builds(
    Demand,
    ctx_tokens=st.none() | st.integers(1, 200_000),
    parallel=st.integers(1, 9),
    kv_unified=st.booleans(),
    cache_type_k=st.sampled_from(["f16", "f32", "q8_0", "q4_0"]),
    cache_type_v=st.sampled_from(["f16", "f32", "q8_0", "q4_0"]),
    batch=st.integers(32, 4096),
    ubatch=st.integers(1, 4096),
    cache_ram_mib=st.none() | st.integers(-1, 10_000),
    gpu_layers=st.none() | st.integers(0, 20),
    mmap=st.booleans(),
    flash=st.booleans(),
    embeddings=st.booleans(),
    gpus=st.integers(0, 2),
    cpu=st.sampled_from([frozenset(), frozenset({"amx_int8", "avx512_vnni", "avx2"})]),
)
