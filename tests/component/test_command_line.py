"""The command line, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LIMIT_S = 60
WIDE = os.environ | {"COLUMNS": "200"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=WIDE)


@pytest.mark.parametrize("flag", ["--ctx-size", "-c"])
def test_who_gives_a_flag_of_llama_servers_is_told_where_it_goes(flag: str) -> None:
    done = run("-m", "runner_supervisor", "start", flag, "4096")
    assert done.returncode == 2
    assert f"No such option: {flag}. llama-server's own go after --: runner-supervisor start -- FLAGS" in done.stderr


@pytest.mark.parametrize("arguments", [("--prot", "8080"), ("--port",), ("--insecure-no-auth=1",)])
def test_who_gives_one_of_ours_amiss_is_not(arguments: tuple[str, ...]) -> None:
    done = run("-m", "runner_supervisor", "start", *arguments)
    assert (done.returncode, "llama-server's own" in done.stderr) == (2, False)


def test_commands_need_not_import_what_only_the_service_does() -> None:
    done = run("-c", "import runner_supervisor.cli, sys; print({'fastapi', 'uvicorn'} & set(sys.modules))")
    assert (done.stdout, done.stderr) == ("set()\n", "")
