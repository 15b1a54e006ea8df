"""Does a llama-server work? It has to start, to see the devices its backend is for, and to compute right.

It computes right if it answers golden prompts on a small model to the letter. A folder with `goldens.json` and the
model beside it is handed in: which model that is, is no business of the builder's.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from runner_builders.errors import BuilderError, VerifyError
from runner_builders.manifest import Verified, sha256_of
from runner_builders.run import run, running

START_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 120.0
POLL_S = 0.05
GOLDENS_NAME = "goldens.json"
MODEL_NAME = "demo.gguf"
SCHEMA = 1
DEVICE = re.compile(r"^  (\w+): (.+?) \(\d+ MiB")
"""A line of `--list-devices` (common/arg.cpp): name, description, and memory."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A conversation, how many tokens to answer it with at most, and the right answer."""

    messages: tuple[dict[str, str], ...]
    max_tokens: int
    answer: str


@dataclass(frozen=True, slots=True)
class Goldens:
    """Golden prompts and the model that answers them."""

    model: Path
    prompts: tuple[Golden, ...]


def read_goldens(folder: Path) -> Goldens:
    """Read the golden prompts in a folder.

    Raises:
        BuilderError: they are missing or malformed, or the model is not the one they are for.
    """
    path, model = folder / GOLDENS_NAME, folder / MODEL_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        prompts = tuple(
            Golden(tuple(one["messages"]), int(one["max_tokens"]), str(one["answer"])) for one in fields["prompts"]
        )
        digest = sha256_of(model)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuilderError(
            f"cannot read the golden prompts in {folder}: {error}; install the package again"
        ) from None
    if fields["schema"] != SCHEMA:
        raise BuilderError(f"{path} has schema {fields['schema']}, not {SCHEMA}; install the package again")
    if digest != fields["model_sha256"]:
        raise BuilderError(
            f"{model} has sha256 {digest}, but {path.name} is for {fields['model_sha256']}; install the package again"
        )
    return Goldens(model=model, prompts=prompts)


def version_of(binary: Path) -> str | None:
    """What the binary says of itself, or None: it does not start."""
    outcome = run([str(binary), "--version"], timeout_s=START_TIMEOUT_S, environment=_environment(), guarded=True)
    if not outcome.ok:
        return None
    return next((line for line in outcome.tail if line.startswith("version:")), outcome.last)


def devices_of(binary: Path) -> tuple[str, ...] | None:
    """The devices beside the processor that the binary sees, as `name: description`; None: it cannot tell."""
    outcome = run(
        [str(binary), "--list-devices"], timeout_s=START_TIMEOUT_S, environment=_environment(), guarded=True
    )
    if not outcome.ok:
        return None
    found = (DEVICE.match(line) for line in outcome.tail)
    return tuple(f"{match[1]}: {match[2]}" for match in found if match)


def verify(
    binary: Path, *, goldens: Goldens, promised: str, gpu_present: bool, say: Callable[[str], None]
) -> Verified:
    """See to it that a new llama-server works.

    Args:
        binary: where it will be run from, with its libraries beside it.
        goldens: what it is asked.
        promised: how the names of the devices begin that its backend is for; empty for the processor alone.
        gpu_present: whether this machine has such a device.
        say: told of what is let pass.

    Raises:
        VerifyError: it does not start, sees no device though there is one, or answers wrong.
    """
    version = version_of(binary)
    if version is None:
        raise VerifyError("the new llama-server does not start; build it again, or with another compiler (CXX)")
    devices = devices_of(binary)
    if devices is None:
        raise VerifyError(
            "the new llama-server cannot list its devices; build it again, or with another compiler (CXX)"
        )
    notices = []
    if promised and not any(device.startswith(promised) for device in devices):
        if gpu_present:
            raise VerifyError(
                f"the new llama-server sees no {promised} device though this machine has one: it would compute on "
                "the processor; check the driver (`nvidia-smi`) and that the toolkit is no newer than it"
            )
        notices.append(f"no {promised} device here to try it on: it was verified on the processor")
        say(notices[0])
    wrong = ask(binary, goldens)
    if wrong:
        raise VerifyError(
            f"the new llama-server {wrong}; build it again with another compiler (CXX) or fewer options"
        )
    return Verified(version=version, devices=devices, goldens=len(goldens.prompts), notices=tuple(notices))


def ask(binary: Path, goldens: Goldens) -> str | None:
    """Serve the model on a private socket and ask it all; None when all answers are right, else why not."""
    with tempfile.TemporaryDirectory(prefix="rs-verify-") as name:  # for us alone (0700)
        address, log = Path(name) / "engine.sock", Path(name) / "engine.log"
        command = [
            *(str(binary), "--model", str(goldens.model), "--host", str(address), "--port", "8080"),
            *("--parallel", "1", "--ctx-size", "2048", "--n-gpu-layers", "999"),
        ]
        with (
            running(command, log=log, environment=_environment()) as exit_code,
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(address)), base_url="http://engine", timeout=ANSWER_TIMEOUT_S
            ) as client,
        ):
            try:
                failed = _wait_until_loaded(client, address, exit_code)
                if failed:
                    return f"{failed} («{_last_line(log)}»)"
                answers = ((golden, _answer(client, golden)) for golden in goldens.prompts)
                wrong = next((pair for pair in answers if pair[0].answer != pair[1]), None)
            except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                return f"did not answer a golden prompt ({error!r}, «{_last_line(log)}»)"
    if wrong:
        golden, answer = wrong
        return f"computes wrong: to «{golden.messages[-1]['content']}» it said «{answer}», not «{golden.answer}»"
    return None


def _wait_until_loaded(client: httpx.Client, socket_path: Path, exit_code: Callable[[], int | None]) -> str | None:
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while time.monotonic() < deadline:
        if exit_code() is not None:
            return f"ended with code {exit_code()} when it should serve the demo model"
        if _listens(socket_path) and client.get("/health").status_code == httpx.codes.OK:
            return None
        time.sleep(POLL_S)
    return f"did not load the demo model within {LOAD_TIMEOUT_S:.0f} s"


def _listens(path: Path) -> bool:
    """Whether somebody listens there. httpx would leave a socket open for each time that nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _answer(client: httpx.Client, golden: Golden) -> str:
    body: dict[str, Any] = {
        "messages": golden.messages,
        "max_tokens": golden.max_tokens,
        "temperature": 0,
        "cache_prompt": False,
    }
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return str(answer["choices"][0]["message"]["content"])


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _environment() -> dict[str, str]:
    """Ours, without what would change its flags (LLAMA_ARG_*, common/arg.cpp), and without a debugger at a crash."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    return kept | {"GGML_NO_BACKTRACE": "1"}
