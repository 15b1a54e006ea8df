"""Memory: the sum has the lines llama-server's own log has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.shapes import demands, shape, shapes

from runner_supervisor.core.demand import Demand
from runner_supervisor.core.memory import MIB, Estimate, context_of, estimate, is_copied, row_bytes
from runner_supervisor.core.shape import OUTPUT, TOKEN_EMBEDDING, ModelShape, Tensor

AVX2 = frozenset({"avx2"})


def size(total: Estimate, name: str, place: str = "host") -> int:
    """One line's bytes, 0 if it is not there."""
    return sum(item.size_bytes for item in total.items if (item.name, item.place) == (name, place))


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Demand(), (32_768, 32_768)),
        (Demand(ctx_tokens=1000), (1024, 1024)),
        (Demand(parallel=2, kv_unified=False), (65_536, 32_768)),
        (Demand(parallel=2, kv_unified=False, fits_itself=False), (32_768, 16_384)),
        (Demand(ctx_tokens=1000, parallel=3, kv_unified=False), (1536, 512)),
    ],
)
def test_the_context_is_rounded_as_llama_server_does(demand: Demand, expected: tuple[int, int]) -> None:
    assert context_of(shape(), demand) == expected


def test_a_kv_cache_is_tokens_times_layers_times_heads_times_type() -> None:
    demand = Demand(ctx_tokens=4096)
    assert size(estimate(shape(layers=12), demand), "KV cache") == 4096 * 12 * 2 * (64 + 64) * 2
    quantised = replace(demand, cache_type_k="q8_0", cache_type_v="q4_0")
    assert size(estimate(shape(layers=1), quantised), "KV cache") == 4096 * (4 * 34 + 4 * 18)
    assert row_bytes("unheard-of", 10) == row_bytes("f16", 10)


def test_a_sliding_window_caches_no_more_than_it_sees() -> None:
    gemma = shape(layers=4, window=512, windowed=True)
    shared = estimate(gemma, Demand(ctx_tokens=8192, parallel=2, kv_unified=True))
    assert size(shared, "KV cache, sliding window") == (2 * 512 + 512) * 2 * 256 * 2
    apart = estimate(gemma, Demand(ctx_tokens=8192, parallel=2, kv_unified=False))
    assert size(apart, "KV cache, sliding window") == 2 * (512 + 512) * 2 * 256 * 2
    full = estimate(gemma, Demand(ctx_tokens=8192, swa_full=True))
    assert size(full, "KV cache, sliding window") == size(full, "KV cache")


def test_matrices_the_cpu_rearranges_are_there_twice_until_memory_is_short() -> None:
    model = shape(kind="q4_0")
    plain, twice = (estimate(model, Demand(ctx_tokens=512, cpu=cpu)) for cpu in (frozenset[str](), AVX2))
    copied = size(twice, "weights, rearranged")
    matrices = [one for one in model.tensors if len(one.dims) > 1 and one.name != TOKEN_EMBEDDING]
    assert copied == sum(one.size_bytes for one in matrices)
    assert twice.host_bytes == plain.host_bytes + copied
    assert twice.host_needed_bytes == plain.host_needed_bytes == plain.host_bytes
    assert not size(estimate(model, Demand(cpu=AVX2, repack=False)), "weights, rearranged")
    read = estimate(model, Demand(ctx_tokens=512, cpu=AVX2, mmap=False))
    assert read.host_bytes == read.host_needed_bytes == twice.host_needed_bytes


@pytest.mark.parametrize(
    ("kind", "rows", "cpu", "copied"),
    [
        ("q4_0", 512, "avx2", True),
        ("q4_k", 512, "avx2", True),
        ("q4_0", 516, "avx2", False),
        ("q4_0", 516, "asimddp", True),
        ("q4_k", 516, "asimddp", False),
        ("q8_0", 512, "avx2", False),
        ("q8_0", 512, "asimddp", True),
        ("q6_k", 512, "avx512f", False),
        ("q2_k", 512, "avx512f", True),
        ("f16", 512, "amx_int8", False),
    ],
)
def test_which_matrices_are_rearranged_depends_on_type_rows_and_instruction_sets(
    kind: str, rows: int, cpu: str, *, copied: bool
) -> None:
    tensor = Tensor("blk.0.ffn_up.weight", kind, (512, rows), 1, 0, 0)
    assert is_copied(tensor, Demand(cpu=frozenset({cpu}))) is copied


def test_a_tied_embedding_is_copied_as_the_output() -> None:
    model = shape(kind="q4_0")
    tied = replace(model, tensors=tuple(one for one in model.tensors if one.name != OUTPUT))
    both = [size(estimate(one, Demand(cpu=AVX2)), "weights, rearranged") for one in (model, tied)]
    assert both[0] == both[1] > 0


def test_layers_on_a_gpu_take_their_weights_and_caches_with_them() -> None:
    demand = Demand(ctx_tokens=4096, gpus=1, gpu_layers=3)
    total = estimate(shape(layers=4), demand)
    assert size(total, "KV cache", "gpu") == size(total, "KV cache")
    assert size(total, "weights", "gpu") > 512 * 32_000 * 2
    assert size(estimate(shape(), replace(demand, gpu_layers=None)), "KV cache") == 0
    assert size(estimate(shape(), replace(demand, kv_offload=False)), "KV cache", "gpu") == 0
    assert estimate(shape(), replace(demand, gpu_layers=0)).gpu_bytes == 0


def test_a_batch_is_converted_to_16_or_8_bits_and_not_for_f32_matrices() -> None:
    kinds = ("f32", "f16", "q4_0", "q4_k")
    sizes = [size(estimate(shape(kind=kind), Demand(ctx_tokens=512)), "converted batch") for kind in kinds]
    assert sizes == [0, 512 * 512 * 2, 512 * 512 * 34 // 32, 512 * 512 * 292 // 256]


def test_without_flash_attention_the_scores_of_all_heads_are_computed() -> None:
    flash, without = (size(estimate(shape(), Demand(flash=one)), "compute buffer") for one in (True, False))
    assert without - flash > 4 * 512 * 8 * 32_768 // 2


def test_a_prompt_cache_counts_with_the_limit_it_is_given() -> None:
    limits: tuple[int | None, ...] = (None, 0, -1, 100)
    sizes = [size(estimate(shape(), Demand(cache_ram_mib=limit)), "prompt cache") for limit in limits]
    assert sizes == [0, 0, 0, 100 * MIB]
    with_cache, without = (estimate(shape(), Demand(cache_ram_mib=limit)) for limit in (100, 0))
    assert with_cache.host_needed_bytes == without.host_needed_bytes + 100 * MIB
    assert with_cache.working_bytes == without.working_bytes == without.host_needed_bytes


def test_a_recurrent_layer_has_a_state_per_slot_and_copies_of_it() -> None:
    total = estimate(shape(layers=3, state_bytes=1000), Demand(ctx_tokens=4096, parallel=2))
    assert size(total, "recurrent state") == 3 * 1000 * 2
    assert size(total, "context checkpoints") == 3 * 1000 * 2 * 2


@given(shapes, demands, st.integers(1, 200_000), st.integers(1, 200_000))
def test_more_context_never_takes_less(model: ModelShape, demand: Demand, one: int, other: int) -> None:
    few, many = (estimate(model, replace(demand, ctx_tokens=tokens)) for tokens in sorted((one, other)))
    assert few.host_bytes <= many.host_bytes
    assert few.gpu_bytes <= many.gpu_bytes


@given(shapes, demands)
def test_every_line_is_a_size_and_says_how(model: ModelShape, demand: Demand) -> None:
    total = estimate(model, demand)
    assert all(item.size_bytes >= 0 and item.how for item in total.items)
    assert 0 < total.working_bytes <= total.host_needed_bytes <= total.host_bytes
    assert demand.gpus or not total.gpu_bytes
