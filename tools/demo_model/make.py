"""Make the demo model: a tiny llama-architecture GGUF with seeded random weights.

It exists so that a newcomer, and every end-to-end test, has a real model without a download. Its words
mean nothing; what matters is that chat, completions and embeddings run on the real llama-server, that
output is always valid UTF-8, and that a generation ends only when the caller says so. The last two hold
because control and byte tokens have all-zero output rows: their logit is 0, and the largest of hundreds of
normally distributed logits is above it.

Usage: python tools/demo_model/make.py OUT.gguf
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

SEED = 8080
CONTEXT_TOKENS = 32_768
EMBEDDING = 64
FEED_FORWARD = 128
LAYERS = 2
HEADS = 4
NORM_EPSILON = 1e-5

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


def vocabulary() -> tuple[list[bytes], list[float], list[gguf.TokenType]]:
    """The tokenizer's pieces, scores and types: controls, 256 bytes, printable ASCII, then words."""
    entries = [
        (b"<unk>", 0.0, gguf.TokenType.UNKNOWN),
        (b"<s>", 0.0, gguf.TokenType.CONTROL),
        (b"</s>", 0.0, gguf.TokenType.CONTROL),
    ]
    entries += [(f"<0x{byte:02X}>".encode(), 0.0, gguf.TokenType.BYTE) for byte in range(256)]
    pieces = ["\u2581", *(chr(code) for code in range(33, 127))]
    pieces += ["\u2581" + word for word in WORD_LIST.split()]
    entries += [
        (piece.encode(), -float(rank), gguf.TokenType.NORMAL) for rank, piece in enumerate(dict.fromkeys(pieces))
    ]
    tokens, scores, types = zip(*entries, strict=True)
    return list(tokens), list(scores), list(types)


def write(path: Path) -> None:
    """Write the model to `path`. The same seed gives the same bytes."""
    rng = np.random.default_rng(SEED)

    def normal(*shape: int, scale: float) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    tokens, scores, types = vocabulary()
    model = gguf.GGUFWriter(str(path), "llama")
    model.add_name("runner-supervisor demo")
    model.add_context_length(CONTEXT_TOKENS)
    model.add_embedding_length(EMBEDDING)
    model.add_feed_forward_length(FEED_FORWARD)
    model.add_block_count(LAYERS)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_layer_norm_rms_eps(NORM_EPSILON)
    model.add_rope_dimension_count(EMBEDDING // HEADS)
    model.add_vocab_size(len(tokens))
    model.add_tokenizer_model("llama")
    model.add_token_list(tokens)
    model.add_token_scores(scores)
    model.add_token_types(types)
    model.add_unk_token_id(0)
    model.add_bos_token_id(1)
    model.add_eos_token_id(2)
    model.add_add_bos_token(True)
    model.add_chat_template(CHAT_TEMPLATE)

    width = EMBEDDING**-0.5
    output = normal(len(tokens), EMBEDDING, scale=1.0)
    ends_or_bytes = [kind is not gguf.TokenType.NORMAL for kind in types]
    output[ends_or_bytes] = 0.0
    model.add_tensor("token_embd.weight", normal(len(tokens), EMBEDDING, scale=1.0))
    model.add_tensor("output.weight", output)
    model.add_tensor("output_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
    for layer in range(LAYERS):
        prefix = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            model.add_tensor(f"{prefix}.{norm}.weight", np.ones(EMBEDDING, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            model.add_tensor(f"{prefix}.{name}.weight", normal(EMBEDDING, EMBEDDING, scale=2 * width))
        for name, shape in (
            ("ffn_gate", (FEED_FORWARD, EMBEDDING)),
            ("ffn_up", (FEED_FORWARD, EMBEDDING)),
            ("ffn_down", (EMBEDDING, FEED_FORWARD)),
        ):
            model.add_tensor(f"{prefix}.{name}.weight", normal(*shape, scale=2 * width))

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
