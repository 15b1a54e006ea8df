"""Write a GGUF of a blueprint: the demo model with the weights that train.py gives it, or any other shape.

Models of other shapes have weights that are all zero: they are for measuring memory (tools/memory_error.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tools.demo_model.vocabulary import BOS, EOS, Vocabulary, plain

NORM_EPSILON = 1e-5
ROPE_BASE = 10_000.0

Array = npt.NDArray[np.generic]
Fill = Callable[[str, tuple[int, ...]], Array]
"""Makes a tensor's data from its name and shape, outermost dimension first."""


@dataclass(frozen=True)
class Blueprint:
    """What a model is to look like.

    Attributes:
        architecture: `llama` or `gemma3`, as llama.cpp names them.
        context_tokens: the context it claims to be trained with.
        embedding: width of a token's vector.
        feed_forward: width of the feed-forward layers, of each expert if there are experts.
        layers: how many.
        heads: query heads.
        kv_heads: key and value heads.
        head: width of a head.
        kind: type of the matrices.
        tied: the token embedding is the output matrix too.
        tokens: size of the vocabulary, at least that of the demo model's.
        merges: merge rules; with any, the tokenizer is a byte-pair one.
        experts: experts per layer, 0 for none.
        experts_used: experts a token goes through.
        window: sliding window of five layers out of six (gemma3 only).
    """

    architecture: str = "llama"
    context_tokens: int = 32_768
    embedding: int = 64
    feed_forward: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 4
    head: int = 16
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32
    tied: bool = False
    tokens: int = 0
    merges: int = 0
    experts: int = 0
    experts_used: int = 0
    window: int = 0


DEMO = Blueprint(
    embedding=128,
    feed_forward=384,
    layers=3,
    heads=4,
    kv_heads=1,
    head=64,
    kind=gguf.GGMLQuantizationType.F16,
    tied=True,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tensors(blueprint: Blueprint, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, in the order of the file; shapes have the outermost dimension first."""
    width, inner = blueprint.embedding, blueprint.feed_forward
    queries, keys = blueprint.heads * blueprint.head, blueprint.kv_heads * blueprint.head
    gemma = blueprint.architecture == "gemma3"
    yield "token_embd.weight", (tokens, width)
    if not blueprint.tied:
        yield "output.weight", (tokens, width)
    yield "output_norm.weight", (width,)
    for layer in range(blueprint.layers):
        prefix = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm", *(("post_attention_norm", "post_ffw_norm") if gemma else ())):
            yield f"{prefix}.{norm}.weight", (width,)
        for norm in ("attn_q_norm", "attn_k_norm") if gemma else ():
            yield f"{prefix}.{norm}.weight", (blueprint.head,)
        yield f"{prefix}.attn_q.weight", (queries, width)
        yield f"{prefix}.attn_k.weight", (keys, width)
        yield f"{prefix}.attn_v.weight", (keys, width)
        yield f"{prefix}.attn_output.weight", (width, queries)
        experts = (blueprint.experts,) if blueprint.experts else ()
        suffix = "_exps" if experts else ""
        if experts:
            yield f"{prefix}.ffn_gate_inp.weight", (*experts, width)
        yield f"{prefix}.ffn_gate{suffix}.weight", (*experts, inner, width)
        yield f"{prefix}.ffn_up{suffix}.weight", (*experts, inner, width)
        yield f"{prefix}.ffn_down{suffix}.weight", (*experts, width, inner)


def zero_weights(blueprint: Blueprint) -> Fill:
    """Weights that are nothing but large: all zero, in the blueprint's type."""
    quantised = blueprint.kind not in {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    plain = np.float16 if blueprint.kind is gguf.GGMLQuantizationType.F16 else np.float32

    def fill(name: str, shape: tuple[int, ...]) -> Array:
        if len(shape) == 1 or "ffn_gate_inp" in name:
            return np.zeros(shape, dtype=np.float32)
        if quantised:
            return np.zeros(gguf.quant_shape_to_byte_shape(shape, blueprint.kind), dtype=np.uint8)
        return np.zeros(shape, dtype=plain)

    return fill


def write(
    path: Path,
    blueprint: Blueprint,
    *,
    vocabulary: Vocabulary | None = None,
    fill: Fill | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a model to `path`. The same arguments give the same bytes.

    Args:
        path: the file.
        blueprint: the model's shape.
        vocabulary: the tokenizer's; else one that has as many pieces as the blueprint says.
        fill: gives the weights; else they are zero.
        about: texts for the header, by their keys.
    """
    vocabulary = vocabulary or plain(blueprint.tokens)
    tokens = len(vocabulary.pieces)
    model = gguf.GGUFWriter(str(path), blueprint.architecture)
    model.add_name("runner-supervisor demo")
    for key, value in (about or {}).items():
        model.add_string(key, value)
    model.add_context_length(blueprint.context_tokens)
    model.add_embedding_length(blueprint.embedding)
    model.add_feed_forward_length(blueprint.feed_forward)
    model.add_block_count(blueprint.layers)
    model.add_head_count(blueprint.heads)
    model.add_head_count_kv(blueprint.kv_heads)
    model.add_layer_norm_rms_eps(NORM_EPSILON)
    model.add_rope_dimension_count(blueprint.head)
    model.add_rope_freq_base(ROPE_BASE)
    model.add_vocab_size(tokens)
    model.add_key_length(blueprint.head)
    model.add_value_length(blueprint.head)
    if blueprint.experts:
        model.add_expert_count(blueprint.experts)
        model.add_expert_used_count(blueprint.experts_used)
    if blueprint.window:
        model.add_sliding_window(blueprint.window)
    model.add_tokenizer_model("gpt2" if blueprint.merges else "llama")
    if blueprint.merges:
        model.add_tokenizer_pre("gpt-2")
        model.add_token_merges([f"{number:06} {number:06}" for number in range(blueprint.merges)])
    model.add_token_list(vocabulary.pieces)
    model.add_token_scores(vocabulary.scores)
    model.add_token_types(vocabulary.types)
    model.add_unk_token_id(0)
    model.add_bos_token_id(BOS)
    model.add_eos_token_id(EOS)
    model.add_add_bos_token(True)
    model.add_chat_template(CHAT_TEMPLATE)

    fill = fill or zero_weights(blueprint)
    quantised = blueprint.kind not in {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    for name, shape in tensors(blueprint, tokens):
        data = fill(name, shape)
        model.add_tensor(name, data, raw_dtype=blueprint.kind if quantised and data.dtype == np.uint8 else None)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()
