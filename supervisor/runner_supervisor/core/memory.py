"""How much memory llama-server will take for a model: what its own code allocates, added up. Pure.

What is meant by "takes" is the resident set after every slot has been used with full batches: buffers are
reserved when the server starts and become resident when they are touched. docs/memory.md says what is counted
and how well it agrees with the real thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from runner_supervisor.core.demand import Demand
from runner_supervisor.core.shape import OUTPUT, TOKEN_EMBEDDING, ModelShape, Tensor

MIB = 1 << 20
CONTEXT_PAD = 256
"""A context is a multiple of this many tokens (src/llama-context.cpp)."""

KV_BLOCKS: Mapping[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18), "q4_1": (32, 20),
    "iq4_nl": (32, 18), "q5_0": (32, 22), "q5_1": (32, 24),
}  # fmt: skip
"""Types a KV cache can have (common/arg.cpp): numbers per block, bytes per block (ggml/src/ggml-common.h)."""

PROCESS_BYTES = 17 * MIB
"""llama-server with a model of no size: its code, libraries, threads, HTTP server. Measured."""
SLOT_BYTES = MIB // 5
"""A slot's own bookkeeping. Measured."""
TENSOR_BYTES = 11 * 1024
"""Bookkeeping per weight: graphs and the scheduler's tables have room for eight nodes for each
(`graph_max_nodes`, src/llama-context.cpp). Measured."""
TOKEN_BYTES = 160
"""A token of the vocabulary: its text thrice, its score, a hash entry (src/llama-vocab.cpp). Measured."""
BYTE_PAIR_TOKEN_BYTES = 240
"""The same where the tokenizer is a byte-pair one. Measured."""
MERGE_BYTES = 130
"""A merge rule of a byte-pair tokenizer: two strings and a hash entry (src/llama-vocab.cpp). Measured."""
CANDIDATE_BYTES = 15
"""A token in a slot's list of candidates for sampling: 12 bytes of `llama_token_data`, and what is copied of it.
Measured."""

REPACKED: Mapping[str, Mapping[str, int]] = {
    "avx2": {"q4_0": 8, "q4_k": 8, "iq4_nl": 8, "mxfp4": 8},
    "avx512f": {"q2_k": 8},
    "asimddp": {"q4_0": 4, "q4_k": 8, "q5_k": 8, "q6_k": 8, "q8_0": 4, "q1_0": 4, "iq4_nl": 4, "mxfp4": 4},
}
"""Types rearranged with an instruction set, and what a matrix's rows must be a multiple of
(`ggml_repack_get_optimal_repack_type`, ggml/src/ggml-cpu/repack.cpp)."""
BLOCKS_OF_32 = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4"})
"""Types multiplied with 34 bytes for 32 numbers; the other quantised ones with 292 for 256 (`vec_dot_type`,
ggml/src/ggml-cpu/ggml-cpu.c)."""

Place = Literal["host", "gpu"]


@dataclass(frozen=True)
class Item:
    """One line of the sum.

    Attributes:
        name: what it is.
        size_bytes: how much.
        how: where the figure comes from, for people.
        place: whose memory.
        spare: it is resident, but the kernel takes it back when memory is short.
        grows: it is nothing at first, and at most this when the engine has been used for long.
    """

    name: str
    size_bytes: int
    how: str
    place: Place = "host"
    spare: bool = False
    grows: bool = False


@dataclass(frozen=True)
class Estimate:
    """The sum, line by line."""

    items: tuple[Item, ...]

    @property
    def host_bytes(self) -> int:
        """What will be resident in the host's memory."""
        return sum(item.size_bytes for item in self.items if item.place == "host")

    @property
    def working_bytes(self) -> int:
        """What the engine takes of the host to work: what is needed but the prompt cache, filled as it is used."""
        return self.host_needed_bytes - sum(item.size_bytes for item in self.items if item.grows)

    @property
    def host_needed_bytes(self) -> int:
        """The most the host must give: the resident bytes but those the kernel may take back."""
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
    items = (
        *_weights(shape, demand),
        *_cache(shape, demand),
        *_compute(shape, demand),
        _outputs(shape, demand),
        *_checkpoints(shape, demand),
        _vocabulary(shape),
        _process(shape, demand),
        *_prompt_cache(demand),
    )
    return Estimate(tuple(item for item in items if item.size_bytes or item.name == "prompt cache"))


def gpu_layers(shape: ModelShape, demand: Demand) -> int:
    """How many layers go to GPUs, the output counting as one more; all if nobody says (src/llama-model.cpp)."""
    most = len(shape.layers) + 1
    return 0 if not demand.gpus else most if demand.gpu_layers is None else min(demand.gpu_layers, most)


def is_copied(tensor: Tensor, demand: Demand) -> bool:
    """Whether the CPU keeps a copy of this matrix in a layout it multiplies faster.

    Which types and sizes it does that for depends on its instruction sets. AMX is not among them: our builds leave
    it out (builders/runner_builders/backends/cpu.py).
    """
    if not demand.repack or len(tensor.dims) < 2 or tensor.dims[1] < 2 or tensor.name == TOKEN_EMBEDDING:
        return False
    kinds = [REPACKED[feature] for feature in demand.cpu & REPACKED.keys()]
    return any(tensor.kind in rows and tensor.dims[1] % rows[tensor.kind] == 0 for rows in kinds)


def _weights(shape: ModelShape, demand: Demand) -> Iterator[Item]:
    """Weights as src/llama-model-loader.cpp places them.

    A mapped file is resident from the first to the last tensor used where it is; what lies between and was copied
    elsewhere is resident too, until memory is short.
    """
    first_gpu, last = len(shape.layers) + 1 - gpu_layers(shape, demand), len(shape.layers)

    def on_gpu(tensor: Tensor) -> bool:
        layer = last if tensor.layer is None else tensor.layer
        return tensor.name != TOKEN_EMBEDDING and layer >= first_gpu

    tied = not any(tensor.name == OUTPUT for tensor in shape.tensors)
    output = [replace(tensor, name=OUTPUT) for tensor in shape.tensors if tied and tensor.name == TOKEN_EMBEDDING]
    there = [tensor for tensor in (*shape.tensors, *output) if on_gpu(tensor)]
    here = [tensor for tensor in shape.tensors if not on_gpu(tensor)]
    multiplied = [tensor for tensor in (*here, *output) if not on_gpu(tensor)]
    copied = [tensor for tensor in multiplied if is_copied(tensor, demand)]
    kept = [tensor for tensor in here if not is_copied(tensor, demand)]
    kept_bytes = sum(tensor.size_bytes for tensor in kept)
    copied_bytes = sum(tensor.size_bytes for tensor in copied)
    yield Item("weights", kept_bytes, f"{len(kept)} tensors, {'mapped' if demand.mmap else 'read'} from the file")
    yield Item("weights, rearranged", copied_bytes, f"copies of {len(copied)} matrices for this CPU; see --no-repack")
    if demand.mmap:
        mapped = sum(
            max(tensor.offset + tensor.size_bytes for tensor in part) - min(tensor.offset for tensor in part)
            for part in ([tensor for tensor in kept if tensor.file == file] for file in range(len(shape.file_bytes)))
            if part
        )
        how = "mapped beside what was copied; given back when memory is short"
        yield Item("rest of the file", max(0, mapped - kept_bytes), how, spare=True)
    yield Item("weights", sum(tensor.size_bytes for tensor in there), f"{len(there)} tensors", "gpu")


def _cache(shape: ModelShape, demand: Demand) -> Iterator[Item]:
    """The KV cache and recurrent states (src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp)."""
    total, _ = context_of(shape, demand)
    window = _window_cells(shape, demand)
    first_gpu = len(shape.layers) + 1 - gpu_layers(shape, demand)
    sizes: dict[tuple[Place, bool], int] = {}
    states: dict[Place, int] = {"host": 0, "gpu": 0}
    for index, layer in enumerate(shape.layers):
        place: Place = "gpu" if demand.gpus and index >= first_gpu and demand.kv_offload else "host"
        tokens = window if layer.windowed else total
        row = row_bytes(demand.cache_type_k, layer.keys) + row_bytes(demand.cache_type_v, layer.values)
        sizes[place, layer.windowed] = sizes.get((place, layer.windowed), 0) + tokens * row
        states[place] += layer.state_bytes * demand.parallel
    types = demand.cache_type_k + ("" if demand.cache_type_v == demand.cache_type_k else f"/{demand.cache_type_v}")
    for (place, windowed), size in sizes.items():
        layers = [one for one in shape.layers if one.windowed is windowed and one.keys + one.values]
        tokens = window if windowed else total
        numbers = max((one.keys + one.values for one in layers), default=0)
        name = "KV cache, sliding window" if windowed else "KV cache"
        yield Item(name, size, f"{tokens} tokens x {len(layers)} layers x {numbers} numbers x {types}", place)
    for place, size in states.items():
        yield Item("recurrent state", size, f"{demand.parallel} slots", place)


def _window_cells(shape: ModelShape, demand: Demand) -> int:
    """Tokens a sliding-window layer caches, all slots together (src/llama-kv-cache-iswa.cpp)."""
    total, per_slot = context_of(shape, demand)
    if demand.swa_full:
        return total
    slots = demand.parallel
    one = _pad(min(per_slot, shape.window * (slots if demand.kv_unified else 1) + demand.ubatch), CONTEXT_PAD)
    return one if demand.kv_unified else one * slots


def _compute(shape: ModelShape, demand: Demand) -> Iterator[Item]:
    """The buffers one batch is computed in, at their largest.

    What is alive at once where a layer is widest (ggml/src/ggml-alloc.c walks the graphs of src/models/): vectors as
    wide as the embedding, and either queries, keys, values and their result, or three times the feed-forward width,
    per expert used. Beside it the mask of who sees whom (src/llama-graph.cpp), and what the CPU converts a batch to
    before it multiplies (`ggml_graph_plan`, ggml/src/ggml-cpu/ggml-cpu.c).
    """
    total, per_slot = context_of(shape, demand)
    ubatch = min(demand.ubatch, demand.batch, total)
    width, used = shape.embedding, max(1, shape.experts_used)
    inner = max(shape.feed_forward if not shape.experts else 0, used * shape.expert_feed_forward)
    cached = max((layer.keys + layer.values for layer in shape.layers), default=0)
    attention = 3 * width + 2 * shape.query + cached
    feed_forward = max(4 * width + 3 * inner, 3 * width + inner + used * width if shape.experts else 0)
    logits = 2 * width * ubatch + shape.vocabulary * _output_rows(shape, demand)
    scores = 0 if demand.flash else per_slot * shape.heads
    activations = 4 * max(ubatch * (attention + scores), ubatch * feed_forward, logits)
    windowed = any(layer.windowed for layer in shape.layers)
    streams = 1 if demand.kv_unified else demand.parallel
    seen = per_slot + (_window_cells(shape, demand) // streams if windowed else 0)
    mask = ubatch * seen * (2 if demand.flash else 4)
    place: Place = "gpu" if gpu_layers(shape, demand) else "host"
    yield Item("compute buffer", activations, f"{ubatch} tokens at once, {width} wide, {inner} in the middle", place)
    yield Item("attention mask", mask, f"{ubatch} x {seen} tokens", place)
    if place == "host":
        of_scores = 0 if demand.cache_type_v == "f32" else 2.0 * scores
        converted = max((_converted(tensor, shape) for tensor in shape.tensors), default=0.0)
        size = int(ubatch * max(converted, of_scores))
        yield Item("converted batch", size, f"{ubatch} tokens, for what is not multiplied as f32")


def _converted(tensor: Tensor, shape: ModelShape) -> float:
    """Bytes a token takes once converted for this matrix: to 16 bits, or to 8 if it is quantised."""
    if tensor.layer is None or len(tensor.dims) < 2 or tensor.kind == "f32":
        return 0.0
    number_bytes = 2.0 if tensor.kind in {"f16", "bf16"} else 34 / 32 if tensor.kind in BLOCKS_OF_32 else 292 / 256
    tokens = max(1, shape.experts_used) if "_exps" in tensor.name else 1
    return tensor.dims[0] * tokens * number_bytes


def _output_rows(shape: ModelShape, demand: Demand) -> int:
    """Tokens of a batch that have an output (tools/server/server-context.cpp, `server_output_limits`)."""
    return min(demand.batch, context_of(shape, demand)[0]) if demand.embeddings else demand.parallel


def _outputs(shape: ModelShape, demand: Demand) -> Item:
    """Logits, embeddings, and each slot's candidates for sampling (src/llama-context.cpp, common/sampling.cpp)."""
    rows = _output_rows(shape, demand)
    numbers = shape.vocabulary + (shape.embedding if demand.embeddings else 0)
    candidates = CANDIDATE_BYTES * shape.vocabulary * demand.parallel
    return Item("outputs", 4 * rows * numbers + candidates, f"{rows} rows of {numbers}, {demand.parallel} slots")


def _checkpoints(shape: ModelShape, demand: Demand) -> Iterator[Item]:
    """Copies of what cannot be rolled back: sliding windows and states (tools/server/server-context.cpp)."""
    _, per_slot = context_of(shape, demand)
    window = min(per_slot, shape.window)
    size = sum(
        layer.state_bytes
        + (
            window * (row_bytes(demand.cache_type_k, layer.keys) + row_bytes(demand.cache_type_v, layer.values))
            if layer.windowed and not demand.swa_full
            else 0
        )
        for layer in shape.layers
    )
    each = min(demand.checkpoints, 2 + per_slot // max(1, demand.checkpoint_step))
    yield Item("context checkpoints", size * each * demand.parallel, f"{demand.parallel} slots x {each}")


def _vocabulary(shape: ModelShape) -> Item:
    token_bytes = BYTE_PAIR_TOKEN_BYTES if shape.merges else TOKEN_BYTES
    size = shape.vocabulary * token_bytes + shape.merges * MERGE_BYTES
    return Item("vocabulary", size, f"{shape.vocabulary} tokens, {shape.merges} merges")


def _process(shape: ModelShape, demand: Demand) -> Item:
    size = PROCESS_BYTES + demand.parallel * SLOT_BYTES + len(shape.tensors) * TENSOR_BYTES
    return Item("process", size, f"the program, {demand.parallel} slots, graphs for {len(shape.tensors)} tensors")


def _prompt_cache(demand: Demand) -> Iterator[Item]:
    """Prompts kept for reuse: its limit, if one is named; without any limit nobody can say."""
    if demand.cache_ram_mib is not None and demand.cache_ram_mib != 0:
        how = f"filled as it is used, --cache-ram {demand.cache_ram_mib}"
        yield Item("prompt cache", max(0, demand.cache_ram_mib) * MIB, how, grows=True)


def row_bytes(kind: str, numbers: int) -> int:
    """Size of a row of `numbers` in a KV cache of type `kind`; an unknown type counts as f16."""
    per_block, block_bytes = KV_BLOCKS.get(kind, KV_BLOCKS["f16"])
    return -(-numbers // per_block) * block_bytes


def _pad(number: int, to: int) -> int:
    return -(-number // to) * to
