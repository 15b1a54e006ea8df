"""The demo model in torch, as llama.cpp computes it (`src/models/llama.cpp`): for training it and asking it.

The weights are a dictionary with the names and shapes they have in the file (make.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tools.demo_model.make import DEMO, NORM_EPSILON, ROPE_BASE, tensors
from tools.demo_model.vocabulary import EOS

Weights = Mapping[str, Tensor]
INITIAL_SCALE = 0.02


def fresh(tokens: int) -> dict[str, Tensor]:
    """Weights to begin a training with."""

    def initial(shape: tuple[int, ...]) -> Tensor:
        return torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * INITIAL_SCALE

    return {name: initial(shape).requires_grad_() for name, shape in tensors(DEMO, tokens)}


def hidden(weights: Weights, ids: Tensor, positions: Tensor) -> Tensor:
    """What the model has in mind after each token.

    Args:
        weights: the model's.
        ids: token ids, one text a row.
        positions: of each token in its text.
    """
    turn = _rotation(positions)
    x = functional.embedding(ids, weights["token_embd.weight"])
    for layer in range(DEMO.layers):
        own = {name.removeprefix(f"blk.{layer}."): each for name, each in weights.items()}
        x = x + _attention(own, _norm(x, own["attn_norm.weight"]), turn)
        normed = _norm(x, own["ffn_norm.weight"])
        gate = functional.silu(normed @ own["ffn_gate.weight"].T)
        x = x + (gate * (normed @ own["ffn_up.weight"].T)) @ own["ffn_down.weight"].T
    return _norm(x, weights["output_norm.weight"])


def logits(weights: Weights, hidden: Tensor) -> Tensor:
    """How likely each token is to be the next."""
    return hidden @ weights["token_embd.weight"].T


@torch.no_grad()
def answer(weights: Weights, given: Sequence[int], *, max_tokens: int) -> tuple[list[int], float]:
    """The likeliest tokens one after another, without the end token, and how sure the model is of each.

    Returns:
        the tokens, and the least distance, in nats, between a token's logit and the next best one's; the end token
        counts too.
    """
    ids, least = list(given), float("inf")
    for _ in range(max_tokens):
        last = hidden(weights, torch.tensor([ids]), torch.arange(len(ids))[None])[0, -1]
        best, second = torch.topk(logits(weights, last), 2)[0].tolist()
        least = min(least, best - second)
        ids.append(int(logits(weights, last).argmax()))
        if ids[-1] == EOS:
            break
    said = ids[len(given) :]
    return (said[:-1] if said[-1] == EOS else said), least


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x, (x.shape[-1],), weight, NORM_EPSILON)


def _rotation(positions: Tensor) -> Tensor:
    """The complex numbers that turn each pair of a head at each position."""
    frequencies = ROPE_BASE ** (-torch.arange(0, DEMO.head, 2) / DEMO.head)
    angles = positions[..., None] * frequencies
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Neighbours in a head are a pair, as in Meta's weights; llama.cpp calls it the normal order."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2)


def _attention(own: Weights, x: Tensor, turn: Tensor) -> Tensor:
    def heads(name: str) -> Tensor:
        return (x @ own[f"{name}.weight"].T).unflatten(-1, (-1, DEMO.head)).transpose(1, 2)

    query, key, value = _turned(heads("attn_q"), turn), _turned(heads("attn_k"), turn), heads("attn_v")
    shape = query.shape
    mixed = functional.scaled_dot_product_attention(query, key.expand(shape), value.expand(shape), is_causal=True)
    return mixed.transpose(1, 2).flatten(-2) @ own["attn_output.weight"].T
