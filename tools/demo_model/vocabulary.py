"""The tokenizer's vocabulary: controls, 256 bytes, printable ASCII and whole words, in the way of SentencePiece.

llama.cpp's `llama` tokenizer begins with single characters and joins neighbours as long as the two together are a
piece (`src/llama-vocab.cpp`, `llm_tokenizer_spm_session`). So a word is one token only if all its beginnings are
pieces too: `▁s`, `▁se`, `▁sea`. No other pieces are longer than a character, so that a text has one reading: the
longest beginning of each word that is known, then characters; what is not ASCII, as bytes.

The exception are openings: a word that an answer begins with and that has no space before it, so that a chat
answer does not begin with a space. They have three letters or more, their beginnings are no pieces, and so no text
is ever read as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import gguf

SPACE = "\u2581"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
BOS, EOS = 1, 2

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


@dataclass(frozen=True)
class Vocabulary:
    """The pieces in the order of their ids, and the type of each."""

    pieces: tuple[str, ...]
    types: tuple[gguf.TokenType, ...]

    @property
    def scores(self) -> list[float]:
        """Earlier pieces are joined first. As a text has one reading only, no reading depends on it."""
        return [-float(rank) if kind is gguf.TokenType.NORMAL else 0.0 for rank, kind in enumerate(self.types)]

    @cached_property
    def ids(self) -> dict[str, int]:
        """Each piece's id."""
        return {piece: number for number, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, as llama.cpp reads it after a control token: with a space before it."""
        symbols = (" " + text).replace(" ", SPACE)
        found: list[int] = []
        at = 0
        while at < len(symbols):
            end = at + 1
            while symbols[at] == SPACE and end < len(symbols) and symbols[at : end + 1] in self.ids:
                end += 1
            piece = symbols[at:end]
            found += [self.ids[piece]] if piece in self.ids else [self.ids[byte_piece(b)] for b in piece.encode()]
            at = end
        return found

    def encode_answer(self, text: str) -> list[int]:
        """The ids of an answer as it is generated: its first word is an opening."""
        opening = first_word(text)
        return [self.ids[opening], *self.encode(text)[len(self.encode(opening)) :]]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids, control tokens left out."""
        text = b""
        for each in ids:
            if self.types[each] is gguf.TokenType.BYTE:
                text += bytes([int(self.pieces[each][3:-1], 16)])
            elif self.types[each] is gguf.TokenType.NORMAL:
                text += self.pieces[each].replace(SPACE, " ").encode()
        return text.decode(errors="replace")


def byte_piece(byte: int) -> str:
    """The piece that stands for a byte."""
    return f"<0x{byte:02X}>"


def first_word(text: str) -> str:
    """What an answer begins with, up to a space or a mark."""
    return bare(text.split(" ", 1)[0])


def bare(word: str) -> str:
    """A word without the marks around it, which are tokens of their own."""
    return word.lstrip("(\"'").rstrip(".,!?:;)\"'")


def plain(size: int = 0) -> Vocabulary:
    """The word list, and numbers up to `size` pieces: for models that nobody talks to."""
    pieces = [SPACE + word for word in WORD_LIST.split()]
    numbers = size - len(_vocabulary(pieces).pieces)
    return _vocabulary([*pieces, *(f"{SPACE}{number:06}" for number in range(numbers))])


def of_words(words: Iterable[str], *, openings: Iterable[str]) -> Vocabulary:
    """These words with their beginnings, and openings; the roles of a chat are control tokens."""
    chains = [SPACE + word[:end] for word in words for end in range(1, len(word) + 1)]
    return _vocabulary([*chains, *openings], controls=ROLES)


def _vocabulary(pieces: Iterable[str], *, controls: tuple[str, ...] = ()) -> Vocabulary:
    kinds = {
        "<unk>": gguf.TokenType.UNKNOWN,
        **dict.fromkeys(("<s>", "</s>", *controls), gguf.TokenType.CONTROL),
        **dict.fromkeys(map(byte_piece, range(256)), gguf.TokenType.BYTE),
    }
    characters = (SPACE, *map(chr, range(33, 127)))
    normal = dict.fromkeys((*characters, *pieces), gguf.TokenType.NORMAL)
    entries = kinds | normal
    return Vocabulary(tuple(entries), tuple(entries.values()))
