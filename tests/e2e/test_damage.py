"""A llama-server whose bytes are not what was built is refused, and nothing is built in its place unasked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import COMMAND, END_TIMEOUT_S


@pytest.fixture
def cache(engine_build: Path, tmp_path: Path) -> Path:
    """A cache of our own with a copy of the real build in use."""
    build = engine_build.parent
    shutil.copytree(build, tmp_path / "builds" / build.name)
    (tmp_path / "current.json").write_text(json.dumps({"key": build.name}))
    return tmp_path


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands."""
    environment = os.environ | {"RUNNER_CACHE_DIR": str(cache)}
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=END_TIMEOUT_S, check=False
    )


def test_a_flipped_bit_is_found_by_check_and_refused_at_start(cache: Path) -> None:
    assert run(cache, "build", "--check").returncode == 0
    binary = next((cache / "builds").glob("*/llama-server"))
    with binary.open("r+b") as file:
        file.seek(binary.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    checked = run(cache, "build", "--check")
    assert (checked.returncode, "llama-server has sha256 " in checked.stderr) == (1, True)
    started = run(cache, "start", "--port", "0", "--state-dir", str(cache / "state"))
    assert started.returncode == 1
    assert f"error: {binary} is not what was built: the disk fails, or somebody changed it" in started.stderr
    assert started.stdout == ""
