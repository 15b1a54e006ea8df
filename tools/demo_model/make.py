"""Make the demo model: a tiny llama-architecture GGUF with seeded random weights.

It exists so that a newcomer, and every end-to-end test, has a real model without a download. Its words
mean nothing; what matters is that chat, completions and embeddings run on the real llama-server, that
output is always valid UTF-8, and that a generation ends only when the caller says so. The last two hold
because control and byte tokens have all-zero output rows: their logit is 0, and the largest of hundreds of
normally distributed logits is above it.

Models of other shapes, with weights that are all zero, are for measuring memory (tools/memory_error.py).

Usage: python tools/demo_model/make.py OUT.gguf
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

SEED = 8080
NORM_EPSILON = 1e-5

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


DEMO = Blueprint()

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

WORD_LIST = """
a able about above across after again air all along also always among an and another answer any are around
as ask at away back be bear became because bed been before began below best better between big bird black
blue boat body book both box bring brought build but by call came can car care carry change children city
clear close cold come could count country cut dark day deep did different do does done door down draw dry
each early earth east eat end engine enough even ever every eye face fact fall family far farm fast father
feel feet few field find fine fire first fish five fly follow food for form found four free friend from full
game garden gave get girl give glass go gold good got great green ground group grow had half hand happy hard
has have he head hear heat help her here high hill him his hold home horse hot house how hundred idea if in
into is it just keep kind knew know land language large last late laugh lead learn leave left less let letter
life light like line list little live long look love low made make man many map mark may me mean measure men
might mile mind moon more morning most mother mountain move much music must my name near need never new next
night no north not note nothing now number of off often old on once one only open or order other our out over
page paper part pass people piece place plain plan plant play point power press put question quick quiet rain
ran read ready real red rest right river road rock room round run sail same saw say school sea second see seem
self send sentence serve set seven shape she ship short should show side silver simple since sing sit six size
sky sleep slow small snow so some song soon sound south space stand star start state stay step stone stood
stop store story street strong such summer sun sure table take talk tell ten than that the their them then
there these they thing think this those though thought thousand three through time to together told too took
top toward town travel tree true try turn two under until up us use very voice wait walk wall want warm was
watch water way we week well went were west what wheel when where which while white who whole why wide will
wind window winter wish with without woman wonder wood word work world would write year yellow yes yet you young
your
"""


def vocabulary(size: int = 0) -> tuple[list[bytes], list[float], list[gguf.TokenType]]:
    """The tokenizer's pieces, scores and types: controls, 256 bytes, printable ASCII, words, numbers up to `size`."""
    entries = [
        (b"<unk>", 0.0, gguf.TokenType.UNKNOWN),
        (b"<s>", 0.0, gguf.TokenType.CONTROL),
        (b"</s>", 0.0, gguf.TokenType.CONTROL),
    ]
    entries += [(f"<0x{byte:02X}>".encode(), 0.0, gguf.TokenType.BYTE) for byte in range(256)]
    pieces = ["\u2581", *(chr(code) for code in range(33, 127))]
    pieces += ["\u2581" + word for word in WORD_LIST.split()]
    pieces = list(dict.fromkeys(pieces))
    pieces += [f"\u2581{number:06}" for number in range(size - len(entries) - len(pieces))]
    entries += [(piece.encode(), -float(rank), gguf.TokenType.NORMAL) for rank, piece in enumerate(pieces)]
    tokens, scores, types = zip(*entries, strict=True)
    return list(tokens), list(scores), list(types)


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


def random_weights(blueprint: Blueprint, types: list[gguf.TokenType]) -> Fill:
    """The demo model's weights: seeded and normally distributed."""
    rng = np.random.default_rng(SEED)

    def normal(*shape: int, scale: float) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    output = normal(len(types), blueprint.embedding, scale=1.0)
    ends_or_bytes = [kind is not gguf.TokenType.NORMAL for kind in types]
    output[ends_or_bytes] = 0.0

    def fill(name: str, shape: tuple[int, ...]) -> Array:
        if name == "output.weight":
            return output
        if len(shape) == 1:
            return np.ones(shape, dtype=np.float32)
        return normal(*shape, scale=1.0 if name == "token_embd.weight" else 2 * blueprint.embedding**-0.5)

    return fill


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


def write(path: Path, blueprint: Blueprint = DEMO) -> None:
    """Write a model to `path`. The same blueprint gives the same bytes."""
    tokens, scores, types = vocabulary(blueprint.tokens)
    model = gguf.GGUFWriter(str(path), blueprint.architecture)
    model.add_name("runner-supervisor demo")
    model.add_context_length(blueprint.context_tokens)
    model.add_embedding_length(blueprint.embedding)
    model.add_feed_forward_length(blueprint.feed_forward)
    model.add_block_count(blueprint.layers)
    model.add_head_count(blueprint.heads)
    model.add_head_count_kv(blueprint.kv_heads)
    model.add_layer_norm_rms_eps(NORM_EPSILON)
    model.add_rope_dimension_count(blueprint.head)
    model.add_vocab_size(len(tokens))
    if blueprint != DEMO:
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
    model.add_token_list(tokens)
    model.add_token_scores(scores)
    model.add_token_types(types)
    model.add_unk_token_id(0)
    model.add_bos_token_id(1)
    model.add_eos_token_id(2)
    model.add_add_bos_token(True)
    model.add_chat_template(CHAT_TEMPLATE)

    fill = random_weights(blueprint, types) if blueprint == DEMO else zero_weights(blueprint)
    quantised = blueprint.kind not in {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}
    for name, shape in tensors(blueprint, len(tokens)):
        data = fill(name, shape)
        model.add_tensor(name, data, raw_dtype=blueprint.kind if quantised and data.dtype == np.uint8 else None)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def main() -> None:
    """Command line: one argument, the file to write."""
    if len(sys.argv) != 2:
        sys.exit("usage: make.py OUT.gguf")
    write(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
