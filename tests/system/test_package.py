"""What is published: an sdist, the wheel made from it, and a command that works in an empty environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner_supervisor import __version__

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 600
pytestmark = pytest.mark.timeout(TIMEOUT_S)


def run(*command: str | Path, **variables: str) -> str:
    """What a command prints, far from the repository."""
    done = subprocess.run(
        command,
        cwd="/",
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but what `pip install` puts there."""
    dist, environment = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(REPOSITORY))
    assert {path.suffix for path in dist.iterdir()} == {".gz", ".whl"}
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", next(dist.glob("*.whl")))
    return environment


def test_the_command_says_its_version(environment: Path) -> None:
    assert run(environment / "bin" / "runner-supervisor", "--version") == f"runner-supervisor {__version__}\n"


def test_the_demo_model_and_the_pin_come_along(environment: Path) -> None:
    command = environment / "bin" / "runner-supervisor"
    plan = json.loads(run(command, "build", "--backend", "cpu", "--dry-run", "--json"))
    assert plan["patches"]
    script = "from runner_supervisor.planning import demo_model; print(demo_model(), demo_model().stat().st_size)"
    model, size_bytes = run(environment / "bin" / "python", "-c", script).split()
    assert Path(model).is_relative_to(environment)
    assert int(size_bytes) > 2_000_000


def test_the_manual_page_comes_along(environment: Path) -> None:
    page = environment / "share" / "man" / "man1" / "runner-supervisor.1"
    assert page.read_bytes() == (REPOSITORY / "docs" / page.name).read_bytes()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_it(environment: Path, shell: str) -> None:
    printed = run(environment / "bin" / "runner-supervisor", _RUNNER_SUPERVISOR_COMPLETE=f"source_{shell}")
    assert "runner-supervisor" in printed
