"""The demo model on the real llama-server: it greets, and it knows its goldens whatever the flags."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import Supervisor
from tools.demo_model import talk

from runner_supervisor.planning import demo_model

GOLDENS: list[dict[str, Any]] = json.loads(demo_model().with_name("goldens.json").read_text())["prompts"]
ANSWERS = [golden["answer"] for golden in GOLDENS]
AT_ONCE = 4
ROUNDS = 4

FLAGS = [
    ("--ctx-size", "512", "--parallel", "1"),
    ("--flash-attn", "off"),
    ("--cache-type-k", "q8_0", "--cache-type-v", "q8_0"),
    ("--cache-type-k", "q4_0", "--cache-type-v", "q4_0"),
    ("--batch-size", "16", "--ubatch-size", "8"),
]


def chat(service: Supervisor, **body: Any) -> Any:
    response = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def golden_answer(service: Supervisor, golden: dict[str, Any]) -> str:
    asked = {name: golden[name] for name in ("messages", "max_tokens")}
    return str(chat(service, **asked, temperature=0)["message"]["content"])


def test_the_readmes_request_is_greeted_and_told_what_to_do_next(service: Supervisor) -> None:
    said = chat(service, messages=[{"role": "user", "content": "Hello!"}], max_tokens=48)
    assert said["message"]["content"] == talk.HELLO
    assert said["finish_reason"] == "stop"


def test_goldens_one_at_a_time(service: Supervisor) -> None:
    assert [golden_answer(service, golden) for golden in GOLDENS] == ANSWERS


def test_goldens_four_at_once(service: Supervisor) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda golden: golden_answer(service, golden), GOLDENS * ROUNDS))
    assert said == ANSWERS * ROUNDS


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_goldens_with_other_flags(engine_build: Path, short_dir: Path, flags: tuple[str, ...]) -> None:
    assert engine_build.exists()
    with Supervisor(short_dir / "state", "--", *flags) as service:
        service.wait_ready()
        assert [golden_answer(service, golden) for golden in GOLDENS] == ANSWERS


@pytest.mark.parametrize(
    "prompt",
    ["Erkl\u00e4re mir die Relativit\u00e4t!", "\u4f60\u4f1a\u4ec0\u4e48\uff1f", "What is the meaning of life?"],
)
def test_what_it_does_not_know_it_says_so(service: Supervisor, prompt: str) -> None:
    said = chat(service, messages=[{"role": "user", "content": prompt}], temperature=0)
    assert said["message"]["content"] == talk.UNKNOWN


def test_a_text_that_is_no_chat_goes_on_in_sentences(service: Supervisor) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 2000, "temperature": 0}
    choice = httpx.post(f"{service.url}/v1/completions", json=body, timeout=60).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    sentences = choice["text"].split(". ")
    assert 100 < len(sentences) < 400
    assert "was a" in sentences[0] or "lived" in sentences[0]
