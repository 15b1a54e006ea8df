"""GGUF headers: what memory depends on is found quickly, and a damaged file ends in one clear error."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tools.demo_model.make import Blueprint, write
from tools.demo_model.text import words

from runner_supervisor.core.shape import Layer, ModelShape
from runner_supervisor.engine.gguf import read_shape
from runner_supervisor.errors import ModelError
from runner_supervisor.planning import demo_model

HEADER_BYTES = 24_000
DEMO = demo_model().read_bytes()


class Header:
    """Writes a header by hand, so that it can lie."""

    def __init__(self, architecture: str = "llama", **values: object) -> None:
        self.values: dict[str, object] = {"general.architecture": architecture}
        self.values |= {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
        self.infos = b""
        self.tensors = 0

    def tensor(self, name: str, dims: tuple[int, ...], kind: int, offset: int) -> Header:
        self.infos += _text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        self.tensors += 1
        return self

    def write(self, path: Path, data: bytes = b"") -> Path:
        keys = b"".join(_text(name) + _value(value) for name, value in self.values.items())
        head = b"GGUF" + struct.pack("<IQQ", 3, self.tensors, len(self.values)) + keys + self.infos
        path.write_bytes(head + bytes(-len(head) % 32) + data)
        return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, list):
        kind = 7 if isinstance(value[0], bool) else 4
        return struct.pack("<IIQ", 9, kind, len(value)) + struct.pack(
            f"<{len(value)}{'?' if kind == 7 else 'I'}", *value
        )
    assert isinstance(value, int)
    return struct.pack("<II", 4, value)


def small(architecture: str = "llama", **values: object) -> Header:
    """A model of four layers, with what `values` change."""
    told: dict[str, object] = {
        "block_count": 4, "embedding_length": 64, "attention__head_count": 4, "context_length": 100,
    }  # fmt: skip
    return Header(architecture, **(told | values))


def windowed_small(architecture: str, pattern: object) -> Header:
    """The same with a sliding window of nine tokens."""
    return small(architecture, attention__sliding_window=9, attention__sliding_window_pattern=pattern)


def test_the_demo_model_is_read() -> None:
    shape = read_shape(demo_model())
    assert (shape.architecture, shape.context_tokens, shape.embedding, shape.feed_forward) == (
        "llama",
        32_768,
        128,
        384,
    )
    assert (shape.heads, shape.query, shape.window, shape.experts) == (4, 256, 0, 0)
    assert shape.vocabulary == len(words().pieces)
    assert shape.layers == (Layer(64, 64),) * 3
    assert sum(tensor.size_bytes for tensor in shape.tensors) == sum(
        tensor.data.nbytes for tensor in gguf.GGUFReader(demo_model()).tensors
    )
    assert shape.file_bytes == (len(DEMO),)


def test_a_large_vocabulary_is_stepped_over_quickly(tmp_path: Path) -> None:
    write(tmp_path / "large.gguf", Blueprint(tokens=150_000, merges=150_000))
    began = time.process_time()
    shape = read_shape(tmp_path / "large.gguf")
    assert time.process_time() - began < 1.0
    assert (shape.vocabulary, shape.merges) == (150_000, 150_000)


def test_experts_and_quantised_weights_are_read(tmp_path: Path) -> None:
    blueprint = Blueprint(experts=4, experts_used=2, kind=gguf.GGMLQuantizationType.Q8_0)
    write(tmp_path / "experts.gguf", blueprint)
    shape = read_shape(tmp_path / "experts.gguf")
    assert (shape.experts, shape.experts_used, shape.expert_feed_forward) == (4, 2, 128)
    experts = next(tensor for tensor in shape.tensors if tensor.name == "blk.1.ffn_up_exps.weight")
    assert (experts.kind, experts.dims, experts.size_bytes) == ("q8_0", (64, 128, 4), 64 * 128 * 4 // 32 * 34)
    assert experts.layer == 1


@pytest.mark.parametrize(
    ("header", "windowed"),
    [
        (small("gemma3", attention__sliding_window=512, block_count=7), [True] * 5 + [False, True]),
        (small("gemma2"), [True, False, True, False]),
        (small("gpt-oss", attention__sliding_window=128), [True, False, True, False]),
        (small("smallthinker", attention__sliding_window=128), [False, True, True, True]),
        (windowed_small("gemma4", [True, False]), [True] + [False] * 3),
        (windowed_small("plamo3", 2), [True, False, True, False]),
        (windowed_small("plamo3", 0), [True] * 4),
        (small("phi3", attention__sliding_window=512), [False] * 4),
        (small("gemma3"), [False] * 4),
        (small("llama", attention__sliding_window=512), [False] * 4),
    ],
)  # fmt: skip
def test_layers_with_a_sliding_window_are_known(tmp_path: Path, header: Header, windowed: list[bool]) -> None:
    shape = read_shape(header.write(tmp_path / "model.gguf"))
    assert [layer.windowed for layer in shape.layers] == windowed


def test_heads_may_differ_by_layer_and_windows_have_sizes_of_their_own(tmp_path: Path) -> None:
    header = small(
        "gemma4",
        attention__head_count_kv=[2, 1, 2, 1],
        attention__key_length=32,
        attention__value_length=16,
        attention__key_length_swa=8,
        attention__sliding_window=512,
        attention__sliding_window_pattern=[True, False, True, False],
        attention__shared_kv_layers=1,
    )
    layers = read_shape(header.write(tmp_path / "model.gguf")).layers
    assert layers == (Layer(16, 32, windowed=True), Layer(32, 16), Layer(16, 32, windowed=True), Layer(0, 0))


def test_a_latent_cache_has_keys_only(tmp_path: Path) -> None:
    header = small(
        "deepseek2", attention__head_count_kv=1, attention__key_length=576, attention__value_length=512,
        attention__kv_lora_rank=512, attention__key_length_mla=192,
    )  # fmt: skip
    assert read_shape(header.write(tmp_path / "model.gguf")).layers == (Layer(576, 0),) * 4


@pytest.mark.parametrize(
    ("header", "layers"),
    [
        (
            small("mamba", ssm__conv_kernel=4, ssm__inner_size=128, ssm__state_size=16),
            [Layer(0, 0, state_bytes=4 * (3 * 128 + 16 * 128))] * 4,
        ),
        (
            small("lfm2", attention__head_count_kv=[4, 0, 4, 0], shortconv__l_cache=3),
            [Layer(64, 64), Layer(0, 0, state_bytes=4 * 2 * 64)] * 2,
        ),
        (
            small("qwen3next", ssm__conv_kernel=4, ssm__inner_size=32, ssm__state_size=8, ssm__group_count=2),
            [Layer(0, 0, state_bytes=4 * (3 * (32 + 32) + 256))] * 3 + [Layer(64, 64)],
        ),
        (small("rwkv7", wkv__head_size=16), [Layer(0, 0, state_bytes=4 * (128 + 1024))] * 4),
        (
            small("kimi-linear", attention__head_count_kv=[0, 1, 1, 1], kda__head_dim=8, ssm__conv_kernel=4),
            [Layer(0, 0, state_bytes=4 * (3 * 3 * 32 + 256))] + [Layer(16, 16)] * 3,
        ),
        (
            small("minimax-01", attention__recurrent_layers=[True, False, False, False]),
            [Layer(0, 0)] + [Layer(64, 64)] * 3,
        ),
    ],
)
def test_recurrent_layers_have_a_state_instead(tmp_path: Path, header: Header, layers: list[Layer]) -> None:
    assert read_shape(header.write(tmp_path / "model.gguf")).layers == tuple(layers)


def split(folder: Path, count: int, *, without: int = 0) -> Path:
    """A model in `count` files, each with one tensor of 64 bytes."""
    for number in range(1, count + 1):
        header = small() if number == 1 else Header()
        header.values["split.count"] = count
        header.tensor(f"part-{number}.weight", (16,), 0, 0)
        if number != without:
            header.write(folder / f"model-{number:05}-of-{count:05}.gguf", bytes(64))
    return folder / f"model-00001-of-{count:05}.gguf"


def test_the_weights_of_all_parts_are_counted(tmp_path: Path) -> None:
    shape = read_shape(split(tmp_path, 3))
    assert sum(tensor.size_bytes for tensor in shape.tensors) == 3 * 64
    assert [tensor.file for tensor in shape.tensors] == [0, 1, 2]
    assert len(shape.file_bytes) == 3


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf"):
        read_shape(split(tmp_path, 3, without=2))


def test_a_part_is_refused_where_the_first_is_meant(tmp_path: Path) -> None:
    split(tmp_path, 2)
    with pytest.raises(ModelError, match="give the first"):
        read_shape(tmp_path / "model-00002-of-00002.gguf")
    (tmp_path / "model-00001-of-00002.gguf").rename(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match=r"MODEL-00001-of-00002\.gguf"):
        read_shape(tmp_path / "other.gguf")


def test_a_type_this_table_does_not_know_reaches_to_the_next_tensor(tmp_path: Path) -> None:
    header = small().tensor("a.weight", (16,), 999, 0).tensor("b.weight", (16,), 999, 64)
    sizes = [tensor.size_bytes for tensor in read_shape(header.write(tmp_path / "m.gguf", bytes(160))).tensors]
    assert sizes == [64, 96]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (DEMO[:-1], "bytes of .* are missing"),
        (DEMO[:5000], "ends within its header"),
        (DEMO[:6], "ends within its header"),
        (DEMO[:4] + struct.pack("<I", 1) + DEMO[8:], "version 1"),
        (DEMO[:4] + struct.pack(">I", 3) + DEMO[8:], "big-endian"),
        (DEMO[:8] + struct.pack("<Q", 1 << 62) + DEMO[16:], "ends within its header"),
        (DEMO[:16] + struct.pack("<Q", 1 << 62) + DEMO[24:], "ends within its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "no architecture"),
        (b"", "not a GGUF"),
    ],
)
def test_a_damaged_file_ends_in_one_line(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(ModelError, match=says) as raised:
        read_shape(tmp_path / "model.gguf")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (small(block_count=100_000), "names 100000 layers"),
        (small(block_count=0), "no layers"),
        (small().tensor("a.weight", (1,) * 5, 0, 0), "5 dimensions"),
        (small().tensor("a.weight", (1 << 40, 1 << 40), 0, 0), "bytes of a.weight are missing"),
        (small().tensor("a.weight", (16,), 0, 1 << 63), "bytes of a.weight are missing"),
    ],
)
def test_a_lying_header_ends_in_one_line(tmp_path: Path, header: Header, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read_shape(header.write(tmp_path / "model.gguf"))


@pytest.mark.parametrize("counts", [(0, 1 << 28), (1 << 28, 0)])
def test_a_large_file_that_lies_does_not_keep_anyone_waiting(tmp_path: Path, counts: tuple[int, int]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts))
    with path.open("r+b") as file:
        file.truncate(1 << 34)
    with pytest.raises(ModelError, match="keys and"):
        read_shape(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _text("a.list") + struct.pack("<IIQ", 9, 8, 1 << 30))
    with path.open("r+b") as file:
        file.truncate(1 << 34)
    with pytest.raises(ModelError, match="list of"):
        read_shape(path)


edits = st.lists(st.tuples(st.integers(4, HEADER_BYTES), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(edits, st.none() | st.integers(0, HEADER_BYTES))
def test_any_damage_ends_in_a_shape_or_one_error(
    tmp_path: Path, damage: list[tuple[int, bytes]], cut: int | None
) -> None:
    data = bytearray(DEMO)
    for at, put in damage:
        data[at : at + len(put)] = put
    path = tmp_path / "model.gguf"
    path.write_bytes(data[:cut])
    shape, error = _read(path)
    assert (shape is None) != (error is None)
    assert error is None or "\n" not in str(error)


def _read(path: Path) -> tuple[ModelShape | None, ModelError | None]:
    try:
        return read_shape(path), None
    except ModelError as error:
        return None, error
