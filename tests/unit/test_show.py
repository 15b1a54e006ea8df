"""What the commands print in a pipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from runner_supervisor import show
from runner_supervisor.app import Ready

READY = Ready(
    address="http://127.0.0.1:8080",
    model=Path("/m.gguf"),
    backend="cpu",
    log=Path("/s/logs/engine.log"),
    needs_key=True,
    new_key=None,
    given_in=(),
    state_dir=Path("/s"),
    host="127.0.0.1",
    open_to_all=False,
    certificate=None,
)


def banner(capsys: pytest.CaptureFixture[str], ready: Ready) -> list[str]:
    """The lines of the banner."""
    show.banner(ready)
    return capsys.readouterr().out.splitlines()


def banner_line(
    capsys: pytest.CaptureFixture[str], *, new_key: str | None = None, given_in: tuple[str, ...] = ()
) -> str:
    """What the banner says of keys where one is needed."""
    lines = banner(capsys, replace(READY, new_key=new_key, given_in=given_in))
    return next(line for line in lines if line.startswith("API key:"))


def test_a_new_key_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert banner_line(capsys, new_key="rsk_x") == "API key:     rsk_x  (shown this once: only its hash is kept)"


def test_who_has_lost_a_key_is_told_how_to_make_another(capsys: pytest.CaptureFixture[str]) -> None:
    made = "make another with `runner-supervisor keys create --state-dir /s --name NAME`"
    assert banner_line(capsys) == f"API key:     needed. Lost? {made}"


def test_where_keys_come_from_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    line = banner_line(capsys, given_in=("api_keys", "/run/secrets/keys"))
    assert line.startswith(
        "API key:     needed: one of those in api_keys and /run/secrets/keys; or make another with "
    )


def test_an_address_that_is_open_to_all_is_called_insecure(capsys: pytest.CaptureFixture[str]) -> None:
    lines = banner(capsys, replace(READY, needs_key=False, host="0.0.0.0", open_to_all=True))
    assert "INSECURE:    whoever can reach 0.0.0.0 may use it, without a key" in lines


def test_the_line_to_try_names_the_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    ready = replace(READY, address="https://127.0.0.1:8080", certificate=Path("/my certs/chain.pem"))
    assert banner(capsys, ready)[-1].startswith("curl --cacert '/my certs/chain.pem' https://127.0.0.1:8080/v1/")


def test_a_log_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = "srv :warning: [bold]x[/bold] {'a': 1}"
    show.log_line(line, "info")
    show.log_line_as_json(line, "info", source="engine")
    plain, as_json = capsys.readouterr().out.splitlines()
    assert plain == json.loads(as_json)["line"] == line
