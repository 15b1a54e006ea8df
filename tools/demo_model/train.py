"""Train the demo model and write it beside its goldens: `make demo-model`.

One thread of a CPU, one seed. Another machine may add up in another order, so the file is not the same to the last
bit everywhere; what the model answers is.

Usage: python -m tools.demo_model.train [--steps N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tools.demo_model import goldens, network, text
from tools.demo_model.make import DEMO, Array, write
from tools.demo_model.text import Document
from tools.demo_model.vocabulary import BOS

FOLDER = Path(__file__).parents[2] / "supervisor" / "runner_supervisor" / "demo"
STEPS = 2600
BATCH_TOKENS = 2048
POOL = 4096
"""So many documents are sorted by length at a time, so that those of one batch are about as long."""
LEARNING_RATE = 4e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
LONGEST_NORM = 1.0
GAP_SHARE = 0.3
EXAMINED = 1000
"""Documents that are asked for in the end, of a seed that no training saw."""
SHOWN_TOKENS = 150


def batches(seed: int) -> Iterator[list[Document]]:
    """Documents of about the same length together."""
    dice = random.Random(seed)  # noqa: S311
    corpus = text.documents(seed)
    while True:
        pool = sorted(itertools.islice(corpus, POOL), key=lambda document: len(document.ids))
        found, batch = [], []
        for document in pool:
            if (len(batch) + 1) * len(document.ids) > BATCH_TOKENS:
                found.append(batch)
                batch = []
            batch.append(document)
        dice.shuffle(found)
        yield from found


def positions(documents: Sequence[Document], width: int, dice: random.Random) -> Tensor:
    """Where each token stands: in some texts there is a gap, so that the model meets all distances of its context."""
    found = torch.arange(width).repeat(len(documents), 1)
    for row, document in zip(found, documents, strict=True):
        if dice.random() < GAP_SHARE:
            row[dice.randrange(len(document.ids)) :] += dice.randrange(DEMO.context_tokens - width)
    return found


def loss_of(weights: network.Weights, documents: Sequence[Document], dice: random.Random) -> Tensor:
    """How surprised the model is by the tokens it is to learn."""
    width = max(len(document.ids) for document in documents)
    ids = torch.zeros(len(documents), width, dtype=torch.long)
    learned = torch.zeros(len(documents), width, dtype=torch.bool)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        learned[row, document.learned_from : len(document.ids)] = True
    mind = network.hidden(weights, ids[:, :-1], positions(documents, width - 1, dice))
    return functional.cross_entropy(network.logits(weights, mind[learned[:, 1:]]), ids[:, 1:][learned[:, 1:]])


def train(steps: int) -> dict[str, Tensor]:
    """Trained weights, rounded to what the file can hold."""
    torch.manual_seed(text.SEED)
    dice = random.Random(text.SEED)  # noqa: S311
    weights = network.fresh(len(text.words().pieces))
    matrices = [each for each in weights.values() if each.dim() > 1]
    norms = [each for each in weights.values() if each.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARMUP_STEPS, (steps - step) / (steps - WARMUP_STEPS))
    )
    began, shown = time.monotonic(), 0.0
    for step, batch in enumerate(itertools.islice(batches(text.SEED), steps), start=1):
        loss = loss_of(weights, batch, dice)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), LONGEST_NORM)
        optimiser.step()
        schedule.step()
        shown += loss.item()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {shown / 100:.3f}, {time.monotonic() - began:.0f} s", flush=True)
            shown = 0.0
    return {
        name: (each.detach().half() if each.dim() > 1 else each.detach()).float() for name, each in weights.items()
    }


@torch.no_grad()
def examine(weights: network.Weights) -> float:
    """The share of answers that are right to the last token, in chats that the training did not see."""
    chats = [document for document in itertools.islice(text.documents(text.SEED + 1), EXAMINED) if document.is_chat]
    right = 0
    for document in chats:
        ids = torch.tensor([document.ids])
        mind = network.hidden(weights, ids, torch.arange(len(document.ids))[None])[0]
        said = network.logits(weights, mind[document.learned_from - 1 : -1]).argmax(-1)
        good = bool((said == ids[0, document.learned_from :]).all())
        right += good
        if not good:
            print("wrong:", text.words().decode(document.ids), "-->", text.words().decode(said.tolist()))
    return right / len(chats)


def asker(weights: network.Weights) -> goldens.Ask:
    """Asks the trained model."""

    def ask(messages: goldens.Messages, max_tokens: int) -> tuple[str, float]:
        ids, margin = network.answer(weights, text.prompt_ids(messages), max_tokens=max_tokens)
        return text.words().decode(ids), margin

    return ask


def save(weights: network.Weights, folder: Path) -> bool:
    """Write the model and its goldens, and print what it says; whether it is sure enough of the goldens."""

    def fill(name: str, _: tuple[int, ...]) -> Array:
        return weights[name].numpy().astype(np.float32 if weights[name].dim() == 1 else np.float16)

    ask, model = asker(weights), folder / "demo.gguf"
    about = {"general.version": text.VERSION, "general.corpus_sha256": text.fingerprint()}
    write(model, DEMO, vocabulary=text.words(), fill=fill, about=about)
    found = {
        "schema": goldens.SCHEMA,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "prompts": goldens.asked(ask),
    }
    (folder / "goldens.json").write_text(json.dumps(found, indent=1) + "\n")
    for messages in (*goldens.PROMPTS, *goldens.LOOKED_AT):
        answer, margin = ask(messages, goldens.MAX_TOKENS)
        print(f"{margin:5.1f}  {messages[-1]['content']!r}: {answer}")
    for start in goldens.STARTS:
        ids, _ = network.answer(weights, [BOS, *text.words().encode(start)], max_tokens=SHOWN_TOKENS)
        print(f"{start} …{text.words().decode(ids)}")
    return all(entry["least_margin"] >= goldens.LEAST_MARGIN for entry in found["prompts"])


def main() -> None:
    """Train, examine, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    weights = train(arguments.steps)
    print(f"trained in {(time.monotonic() - began) / 60:.1f} minutes")
    print(f"answers that are right to the last token: {examine(weights):.2%}")
    if not save(weights, arguments.out):
        sys.exit(f"a golden's margin is below {goldens.LEAST_MARGIN}: train for more steps")


if __name__ == "__main__":
    main()
