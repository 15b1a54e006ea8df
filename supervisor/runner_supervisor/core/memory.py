"""How much memory llama-server will take for a model: what its own code allocates, added up. Pure.

What is meant by "takes" is the resident set after every slot has been used with full batches: buffers are
reserved when the server starts and become resident when they are touched. docs/memory.md says what is counted
and how well it agrees with the real thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runner_supervisor.core.demand import Demand

MIB = 1 << 20
CONTEXT_PAD = 256
"""A context is a multiple of this many tokens (src/llama-context.cpp)."""

KV_BLOCKS: Mapping[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20),
    "iq4_nl": (32, 18), "q5_0": (32, 22), "q5_1": (32, 24),
}  # fmt: skip
"""Types a KV cache can have (common/arg.cpp): numbers per block, bytes per block (ggml/src/ggml-common.h)."""

PROCESS_BYTES = 24 * MIB
"""llama-server with no model: its code, libraries and threads. Measured."""
VOCABULARY_TOKEN_BYTES = 250
"""One token in llama-server's tables: its text thrice, its score, a hash entry (src/llama-vocab.cpp). Measured."""
VOCABULARY_MERGE_BYTES = 200
"""One merge rule: two strings and a hash entry (src/llama-vocab.cpp). Measured."""
SLOT_TOKEN_BYTES = 12
"""One token's row in a slot's list of candidates for sampling (`llama_token_data`)."""

Place = Literal["host", "gpu"]


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model file.

    Attributes:
        name: as in the file, `blk.3.ffn_up.weight`.
        kind: ggml type, lower case.
        dims: sizes, innermost first.
        size_bytes: size of its data.
        file: number of the file that holds it.
        offset: where its data begins in that file, in bytes.
    """

    name: str
    kind: str
    dims: tuple[int, ...]
    size_bytes: int
    file: int
    offset: int

    @property
    def layer(self) -> int | None:
        """The number of the layer it belongs to, None for what stands before or after the layers."""
        parts = self.name.split(".", 2)
        return int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isdecimal() else None


@dataclass(frozen=True)
class Layer:
    """What one layer remembers.

    Attributes:
        keys: numbers cached per token for keys, all heads together; 0 if it caches none.
        values: the same for values.
        windowed: only a sliding window of tokens is cached.
        state_bytes: a recurrent layer's state, per slot.
    """

    keys: int
    values: int
    windowed: bool = False
    state_bytes: int = 0


@dataclass(frozen=True)
class ModelShape:
    """What a model's header says that decides its memory.

    Attributes:
        architecture: llama.cpp's name for it.
        context_tokens: the context it was trained with.
        embedding: width of a token's vector.
        feed_forward: the widest feed-forward layer.
        heads: query heads, the most of any layer.
        query: width of all query heads together, the most of any layer.
        vocabulary: tokens.
        merges: merge rules of its tokenizer.
        layers: what each layer remembers.
        window: tokens in the sliding window, 0 if there is none.
        experts: experts, 0 if there are none.
        experts_used: experts a token goes through.
        expert_feed_forward: width of one expert.
        tensors: its weights.
        file_bytes: sizes of its files, headers included.
    """

    architecture: str
    context_tokens: int
    embedding: int
    feed_forward: int
    heads: int
    query: int
    vocabulary: int
    merges: int
    layers: tuple[Layer, ...]
    window: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    tensors: tuple[Tensor, ...]
    file_bytes: tuple[int, ...]

    @property
    def weight_bytes(self) -> int:
        """All weights together."""
        return sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class Item:
    """One line of the sum.

    Attributes:
        name: what it is.
        size_bytes: how much.
        how: where the figure comes from, for people.
        place: whose memory.
        spare: it is resident, but the kernel takes it back when memory is short.
    """

    name: str
    size_bytes: int
    how: str
    place: Place = "host"
    spare: bool = False


@dataclass(frozen=True)
class Estimate:
    """The sum, line by line."""

    items: tuple[Item, ...]

    @property
    def host_bytes(self) -> int:
        """What will be resident in the host's memory."""
        return sum(item.size_bytes for item in self.items if item.place == "host")

    @property
    def host_needed_bytes(self) -> int:
        """What the host cannot do without: the resident bytes but those the kernel may take back."""
        return sum(item.size_bytes for item in self.items if item.place == "host" and not item.spare)

    @property
    def gpu_bytes(self) -> int:
        """What will be on the GPUs, all together."""
        return sum(item.size_bytes for item in self.items if item.place == "gpu")


def context_of(shape: ModelShape, demand: Demand) -> tuple[int, int]:
    """The context llama-server would make: tokens of all slots together, tokens a slot can use.

    As src/llama-context.cpp rounds it. Without `--ctx-size` a slot with a KV cache of its own gets the
    model's whole context (common/fit.cpp).
    """
    streams = 1 if demand.kv_unified else demand.parallel
    own = shape.context_tokens * (streams if demand.fits_itself else 1)
    tokens = _pad(demand.ctx_tokens or own, CONTEXT_PAD)
    per_stream = max(CONTEXT_PAD, _pad(tokens // streams, CONTEXT_PAD))
    return per_stream * streams, per_stream


def estimate(shape: ModelShape, demand: Demand) -> Estimate:
    """Add up what llama-server would take for `shape` with the settings of `demand`."""
    items: list[Item] = []
    items.append(Item("weights", shape.weight_bytes, f"{len(shape.tensors)} tensors"))
    total, _ = context_of(shape, demand)
    kv = sum(
        total * (row_bytes(demand.cache_type_k, layer.keys) + row_bytes(demand.cache_type_v, layer.values))
        for layer in shape.layers
    )
    items.append(Item("KV cache", kv, f"{total} tokens x {len(shape.layers)} layers"))
    ubatch = min(demand.ubatch, total)
    compute = 4 * ubatch * (4 * shape.embedding + 3 * shape.feed_forward) + 2 * ubatch * total
    items.append(Item("compute buffers", compute, f"batch of {ubatch} tokens"))
    vocabulary = shape.vocabulary * VOCABULARY_TOKEN_BYTES + shape.merges * VOCABULARY_MERGE_BYTES
    items.append(Item("vocabulary", vocabulary, f"{shape.vocabulary} tokens"))
    items.append(Item("process", PROCESS_BYTES, "code, libraries, threads"))
    if demand.cache_ram_mib:
        limit = max(0, demand.cache_ram_mib)
        items.append(Item("prompt cache", limit * MIB, f"--cache-ram {demand.cache_ram_mib}"))
    return Estimate(tuple(items))


def row_bytes(kind: str, numbers: int) -> int:
    """Size of a row of `numbers` in a KV cache of type `kind`; an unknown type counts as f16."""
    per_block, block_bytes = KV_BLOCKS.get(kind, KV_BLOCKS["f16"])
    return -(-numbers // per_block) * block_bytes


def _pad(number: int, to: int) -> int:
    return -(-number // to) * to
