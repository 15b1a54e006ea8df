"""Reads the header of a GGUF file: what its model's memory depends on, and nothing else.

A header can hold hundreds of thousands of strings (the vocabulary), so they are stepped over, not read. Every
count is checked against what is left of the file before it is believed: a truncated or lying header ends in one
clear error. The format is that of ggml/src/gguf.cpp, the keys are those of src/llama-arch.cpp.
"""

from __future__ import annotations

import itertools
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from runner_supervisor.core.shape import Layer, ModelShape, Tensor
from runner_supervisor.engine.model import GGUF_MAGIC, check_model
from runner_supervisor.errors import ModelError

VERSIONS = (2, 3)
"""Versions llama.cpp reads (ggml/src/gguf.cpp)."""
MOST_DIMENSIONS = 4
MOST_ENTRIES = 100_000
"""Keys or tensors in a header; real ones have a few thousand."""
MOST_STRINGS = 1 << 23
"""Strings in one array; the largest vocabularies have a few hundred thousand."""
KEPT_ARRAY = 4096
"""Arrays of numbers longer than this are stepped over: those kept have one entry per layer."""
MOST_LAYERS = 512
"""`LLAMA_MAX_LAYERS` (src/llama-hparams.h)."""

SCALARS: Mapping[int, struct.Struct] = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
STRING, ARRAY = 8, 9
U32, U64 = SCALARS[4], SCALARS[10]

KINDS: Mapping[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip
"""ggml types by number: name, numbers per block, bytes per block (ggml/src/ggml-common.h)."""

WINDOW_PATTERNS: Mapping[str, tuple[int, bool]] = {
    "afmoe": (4, False), "cohere2": (4, False), "cohere2moe": (4, True), "exaone-moe": (4, False),
    "exaone4": (4, False), "gemma-embedding": (6, False), "gemma2": (2, False), "gemma3": (6, False),
    "gemma3n": (5, False), "gpt-oss": (2, False), "laguna": (4, True), "llama4": (4, False), "mellum": (4, False),
    "muse-glimmer": (4, False), "olmo2": (4, False), "plamo3": (8, False), "smallthinker": (4, True),
}  # fmt: skip
"""Architectures with a sliding window whose files need not say which layers have it: of how many layers one has
none, and whether that is the first (`load_swa_pattern`, src/models/*.cpp)."""
DEFAULT_WINDOWS: Mapping[str, int] = {"exaone4": 4096, "gemma2": 4096, "llama4": 8192, "smallthinker": 4096}
"""Sliding windows of architectures whose files need not name one (src/models/*.cpp)."""
NO_WINDOW = frozenset({"phi3"})
"""Architectures that name a window llama.cpp does not use (src/models/phi3.cpp)."""

PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")

Number = int | float | bool
Value = Number | str | tuple[Number, ...]


@dataclass(frozen=True)
class Header:
    """What one file's header says.

    Attributes:
        values: its keys with their values; long arrays and lists of strings are left out.
        lengths: how long each array is.
        tensors: the weights in this file.
        file_bytes: the file's size.
    """

    values: Mapping[str, Value]
    lengths: Mapping[str, int]
    tensors: tuple[Tensor, ...]
    file_bytes: int

    def number(self, key: str, default: int = 0) -> int:
        """A whole number; of an array the largest."""
        value = self.values.get(key, default)
        if isinstance(value, tuple):
            value = max(value, default=default)
        return int(value) if isinstance(value, int) else default

    def per_layer(self, key: str, layers: int, default: int) -> tuple[int, ...]:
        """One whole number per layer, whether the file gives one for all or one for each."""
        value = self.values.get(key, default)
        if not isinstance(value, tuple):
            return (int(value) if isinstance(value, int) else default,) * layers
        each = tuple(int(one) for one in value[:layers] if isinstance(one, int))
        return each + (default,) * (layers - len(each))


def read_shape(path: Path) -> ModelShape:
    """Read what the memory of the model at `path` depends on; of a split model, from all its parts.

    Raises:
        ModelError: it cannot be read, is no GGUF file, is cut short or inconsistent, or a part is missing.
    """
    first = read_header(path, file=0)
    parts = first.number("split.count", 1)
    headers = [first]
    if parts > 1:
        headers = [
            first if part == path else read_header(part, file=number)
            for number, part in enumerate(_parts(path, parts))
        ]
    return _shape(path, headers)


def read_header(path: Path, *, file: int) -> Header:
    """Read one file's header.

    Args:
        path: the file.
        file: its number among the model's files.

    Raises:
        ModelError: as for `read_shape`.
    """
    check_model(path)
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header(file)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}") from None


class _Reader:
    """Walks through a header from its beginning."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._at = len(GGUF_MAGIC)

    def header(self, file: int) -> Header:
        version = self._u32()
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            told = "is big-endian" if swapped else f"has GGUF version {version}"
            raise ModelError(f"{self._path} {told}, which llama-server cannot read; convert the model again")
        tensor_count, key_count = self._u64(), self._u64()
        self._expect(24 * tensor_count + 12 * key_count)
        if max(tensor_count, key_count) > MOST_ENTRIES:
            raise self._damaged(f"it names {key_count} keys and {tensor_count} tensors")
        values: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(key_count):
            key = self._string()
            kind = self._u32()
            if kind == ARRAY:
                array, lengths[key] = self._array()
                if array is not None:
                    values[key] = array
            else:
                values[key] = self._string() if kind == STRING else self._scalar(kind)
        infos = [self._tensor() for _ in range(tensor_count)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self._damaged("its alignment is no power of two")
        begin = -(-self._at // alignment) * alignment
        return Header(values, lengths, self._tensors(infos, begin, file), self._size)

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        dimensions = self._u32()
        if dimensions > MOST_DIMENSIONS:
            raise self._damaged(f"a tensor has {dimensions} dimensions")
        dims = tuple(self._u64() for _ in range(dimensions))
        return name, self._u32(), dims, self._u64()

    def _tensors(
        self, infos: list[tuple[str, int, tuple[int, ...], int]], begin: int, file: int
    ) -> tuple[Tensor, ...]:
        """Tensors with their sizes. One of a type newer than this table reaches to where the next begins."""
        ends = sorted({offset for *_, offset in infos} | {max(0, self._size - begin)})
        following = dict(itertools.pairwise(ends))
        tensors = []
        for name, number, dims, offset in infos:
            kind, per_block, block_bytes = KINDS.get(number, (f"type-{number}", 0, 0))
            size = prod(dims) // per_block * block_bytes if per_block else following.get(offset, offset) - offset
            if begin + offset + size > self._size:
                missing = begin + offset + size - self._size
                raise self._damaged(f"{missing} bytes of {name} are missing")
            tensors.append(Tensor(name, kind, dims, size, file, begin + offset))
        return tuple(tensors)

    def _array(self) -> tuple[tuple[Number, ...] | None, int]:
        """An array and its length; None for one that is not kept."""
        kind, length = self._u32(), self._u64()
        if kind == STRING:
            self._expect(8 * length)
            if length > MOST_STRINGS:
                raise self._damaged(f"it has a list of {length} texts")
            self._skip_strings(length)
            return None, length
        if kind not in SCALARS:
            raise self._damaged(f"an array is of type {kind}")
        size = SCALARS[kind].size
        self._expect(size * length)
        kept = tuple(self._scalar(kind) for _ in range(length)) if length <= KEPT_ARRAY else None
        self._at += 0 if kept is not None else size * length
        return kept, length

    def _skip_strings(self, count: int) -> None:
        data, at, read = self._data, self._at, U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + read(data, at)[0]
        except (struct.error, OverflowError):
            raise self._damaged("it ends within its header") from None
        self._at = at
        self._expect(0)

    def _string(self) -> str:
        length = self._u64()
        self._expect(length)
        self._at += length
        return self._data[self._at - length : self._at].decode(errors="replace")

    def _scalar(self, kind: int) -> Number:
        if kind not in SCALARS:
            raise self._damaged(f"a value is of type {kind}")
        self._expect(SCALARS[kind].size)
        (value,) = SCALARS[kind].unpack_from(self._data, self._at)
        self._at += SCALARS[kind].size
        number: Number = value
        return number

    def _u32(self) -> int:
        return int(self._scalar(4))

    def _u64(self) -> int:
        return int(self._scalar(10))

    def _expect(self, size: int) -> None:
        if self._at + size > self._size:
            raise self._damaged("it ends within its header")

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path} is damaged: {what}; copy or download the file again")


def _parts(path: Path, count: int) -> list[Path]:
    """The files of a split model, as llama.cpp names them (`llama_split_path`, src/llama.cpp)."""
    match = PART.match(path.name)
    if match is None or int(match["count"]) != count or int(match["number"]) != 1:
        expected = f"MODEL-00001-of-{count:05}.gguf"
        raise ModelError(f"{path} is a part of a model in {count} files; give the first, named {expected}")
    paths = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = next((part for part in paths if not part.exists()), None)
    if missing is not None:
        raise ModelError(f"a part of the model is missing: {missing}; put all {count} files in one folder")
    return paths


def _shape(path: Path, headers: list[Header]) -> ModelShape:
    first = headers[0]
    architecture = str(first.values.get("general.architecture", ""))

    def number(key: str, default: int = 0) -> int:
        return max(0, first.number(f"{architecture}.{key}", default))

    if not architecture or not number("block_count"):
        raise ModelError(f"{path} holds no language model: its header names no architecture or no layers")
    if number("block_count") > MOST_LAYERS:
        raise ModelError(f"{path} is damaged: it names {number('block_count')} layers; download the file again")
    heads = number("attention.head_count")
    return ModelShape(
        architecture=architecture,
        context_tokens=number("context_length"),
        embedding=number("embedding_length"),
        feed_forward=number("feed_forward_length"),
        heads=heads,
        query=heads * number("attention.key_length", number("embedding_length") // max(1, heads)),
        vocabulary=number("vocab_size", first.lengths.get("tokenizer.ggml.tokens", 0)),
        merges=first.lengths.get("tokenizer.ggml.merges", 0),
        layers=_layers(architecture, first),
        window=_window(architecture, first),
        experts=number("expert_count"),
        experts_used=number("expert_used_count"),
        expert_feed_forward=number("expert_feed_forward_length", number("feed_forward_length")),
        tensors=tuple(tensor for header in headers for tensor in header.tensors),
        file_bytes=tuple(header.file_bytes for header in headers),
    )


def _window(architecture: str, header: Header) -> int:
    if architecture in NO_WINDOW:
        return 0
    named = header.number(f"{architecture}.attention.sliding_window", DEFAULT_WINDOWS.get(architecture, 0))
    return DEFAULT_WINDOWS["llama4"] if architecture == "llama4" and named else max(0, named)


def _layers(architecture: str, header: Header) -> tuple[Layer, ...]:
    """What each layer remembers (src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp)."""

    def number(key: str, default: int = 0) -> int:
        return max(0, header.number(f"{architecture}.{key}", default))

    count = number("block_count")
    heads = header.per_layer(f"{architecture}.attention.head_count", count, 0)
    kv_heads = tuple(header.per_layer(f"{architecture}.attention.head_count_kv", count, -1))
    width = number("embedding_length") // max(1, max(heads, default=1))
    key, value = number("attention.key_length", width), number("attention.value_length", width)
    key_windowed = number("attention.key_length_swa", key)
    value_windowed = number("attention.value_length_swa", value)
    latent = number("attention.kv_lora_rank") > 0 and number("attention.key_length_mla") > 0
    windowed = _windowed(architecture, header, count)
    recurrent = _recurrent(architecture, header, kv_heads, count)
    state = _state_bytes(architecture, header, max(heads, default=0))
    caching = count - number("attention.shared_kv_layers")
    layers = []
    for index in range(count):
        own_heads = kv_heads[index] if kv_heads[index] >= 0 else heads[index]
        caches = index < caching and (not recurrent[index] or architecture == "falcon-h1")
        keys = own_heads * (key_windowed if windowed[index] else key) if caches else 0
        values = own_heads * (value_windowed if windowed[index] else value) if caches and not latent else 0
        layers.append(Layer(max(0, keys), max(0, values), windowed[index], state if recurrent[index] else 0))
    return tuple(layers)


def _windowed(architecture: str, header: Header, count: int) -> tuple[bool, ...]:
    if not _window(architecture, header):
        return (False,) * count
    key = f"{architecture}.attention.sliding_window_pattern"
    period, dense_first = WINDOW_PATTERNS.get(architecture, (1, False))
    if isinstance(header.values.get(key), tuple):
        return tuple(bool(one) for one in header.per_layer(key, count, 0))
    period = header.number(key, period)
    if period <= 0:
        return (True,) * count
    return tuple(index % period != (0 if dense_first else period - 1) for index in range(count))


def _recurrent(architecture: str, header: Header, kv_heads: tuple[int, ...], count: int) -> tuple[bool, ...]:
    """Which layers keep a state instead of, or beside, a KV cache (`is_recr_impl`, src/models/*.cpp)."""
    key = f"{architecture}.attention.recurrent_layers"
    if isinstance(header.values.get(key), tuple):
        return tuple(bool(one) for one in header.per_layer(key, count, 0))
    if architecture in {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7", "falcon-h1"}:
        return (True,) * count
    if architecture in {"qwen3next", "qwen35", "qwen35moe", "qwen4exp", "minimax-01"}:
        interval = max(1, header.number(f"{architecture}.full_attention_interval", 4))
        return tuple((index + 1) % interval != 0 for index in range(count))
    return tuple(heads == 0 for heads in kv_heads)


def _state_bytes(architecture: str, header: Header, heads: int) -> int:
    """A recurrent layer's state for one slot, in f32 (`n_embd_r` and `n_embd_s`, src/llama-hparams.cpp)."""

    def number(key: str) -> int:
        return max(0, header.number(f"{architecture}.{key}"))

    embedding, convolution = number("embedding_length"), max(0, number("ssm.conv_kernel") - 1)
    if number("wkv.head_size"):
        rolling, state = 2 * embedding, embedding * number("wkv.head_size")
    elif number("shortconv.l_cache"):
        rolling, state = embedding * (number("shortconv.l_cache") - 1), 0
    elif number("kda.head_dim"):
        head = number("kda.head_dim")
        rolling, state = 3 * (convolution or 3) * heads * head, head * head * heads
    else:
        inner, size = number("ssm.inner_size"), number("ssm.state_size")
        rolling, state = convolution * (inner + 2 * number("ssm.group_count") * size), size * inner
    return 4 * (rolling + state)
