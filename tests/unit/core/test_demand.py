"""Demand: flags mean here what they mean to llama-server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.core.demand import ALL_LAYERS, SWITCHES, VALUED, Demand, demand_of


def test_without_flags_the_defaults_are_llama_servers() -> None:
    assert demand_of(()) == Demand()
    assert (Demand().ctx_tokens, Demand().parallel, Demand().kv_unified) == (None, 4, True)
    assert (Demand().batch, Demand().ubatch, Demand().cache_ram_mib) == (2048, 512, None)


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        (("-c", "4096"), "ctx_tokens", 4096),
        (("--ctx-size", "0"), "ctx_tokens", None),
        (("--ctx_size=4096",), "ctx_tokens", 4096),
        (("-c", "1", "-c", "2"), "ctx_tokens", 2),
        (("--kv-unified-per-slot", "1000"), "ctx_tokens", 4000),
        (("--kv-unified-per-slot", "1000", "-c", "5"), "ctx_tokens", 5),
        (("-np", "2"), "parallel", 2),
        (("-np", "2"), "kv_unified", False),
        (("-np", "2", "-kvu"), "kv_unified", True),
        (("-np", "-1"), "parallel", 4),
        (("-np", "-1", "-no-kvu"), "kv_unified", True),
        (("-ctk", "q8_0"), "cache_type_k", "q8_0"),
        (("--cache-type-v", "q4_0"), "cache_type_v", "q4_0"),
        (("-b", "256"), "ubatch", 256),
        (("-ub", "4096"), "ubatch", 2048),
        (("--embeddings",), "batch", 512),
        (("--pooling", "mean"), "embeddings", True),
        (("-cram", "0"), "cache_ram_mib", 0),
        (("--cache-ram", "-1"), "cache_ram_mib", -1),
        (("-ngl", "all"), "gpu_layers", ALL_LAYERS),
        (("--n-gpu-layers", "-2"), "gpu_layers", ALL_LAYERS),
        (("-ngl", "12"), "gpu_layers", 12),
        (("-ngl", "auto"), "gpu_layers", None),
        (("-ngl", "-1"), "gpu_layers", None),
        (("--load-mode", "none"), "mmap", False),
        (("-lm", "mmap+mlock"), "mmap", True),
        (("--no-mmap",), "mmap", False),
        (("-fa", "off"), "flash", False),
        (("--no-repack",), "repack", False),
        (("-nkvo",), "kv_offload", False),
        (("--swa-full",), "swa_full", True),
        (("--fit", "off"), "fits_itself", False),
        (("-ctxcp", "3"), "checkpoints", 3),
        (("-c", "many"), "ctx_tokens", None),
        (("-c",), "ctx_tokens", None),
    ],
)
def test_a_flag_is_read(flags: tuple[str, ...], field: str, value: object) -> None:
    assert getattr(demand_of(flags), field) == value


def test_what_the_machine_has_is_the_callers_to_say() -> None:
    demand = demand_of((), gpus=2, cpu=frozenset({"avx2"}))
    assert (demand.gpus, demand.cpu) == (2, frozenset({"avx2"}))


words = st.sampled_from([*VALUED, *SWITCHES, "-5", "0", "7", "", "x", "--temp"]) | st.text(max_size=4)


@given(st.lists(words))
def test_no_flags_are_too_strange_to_read(flags: list[str]) -> None:
    demand = demand_of(flags)
    assert demand.parallel >= 1
    assert 1 <= demand.ubatch <= demand.batch
