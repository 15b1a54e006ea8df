"""What of a model decides how much memory it takes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

TOKEN_EMBEDDING = "token_embd.weight"  # noqa: S105 - a tensor's name
OUTPUT = "output.weight"


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
