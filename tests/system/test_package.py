"""What is published: an sdist, the wheel made from it, and a command that works in an empty environment.

The wheel has the front's data path compiled, or, where that cannot be, as Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runner_supervisor import __version__

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_S = 600
pytestmark = pytest.mark.timeout(TIMEOUT_S)


def attempt(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command, far from the repository."""
    return subprocess.run(
        command,
        cwd="/",
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def run(*command: str | Path, **variables: str) -> str:
    """What a command that succeeds prints."""
    done = attempt(*command, **variables)
    assert done.returncode == 0, done.stdout
    return done.stdout


def compiled(wheel: Path) -> list[str]:
    """The names of the compiled files in it."""
    with zipfile.ZipFile(wheel) as files:
        return [name for name in files.namelist() if name.endswith(".so")]


HOW = "from runner_supervisor import doctor; print(doctor.how_the_front_runs())"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the sdist."""
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(REPOSITORY), RUNNER_COMPILE="1")
    assert {path.suffix for path in dist.iterdir()} == {".gz", ".whl"}
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but what `pip install` puts there."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", wheel)
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


def test_its_front_is_compiled(environment: Path) -> None:
    assert run(environment / "bin" / "python", "-c", HOW) == "compiled\n"


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"RUNNER_COMPILE": "0"}, "RUNNER_COMPILE=0 says so"),
        ({"CC": "no-such-cc"}, "there is no C compiler"),
        ({"CC": "false"}, ""),
    ],
)
def test_a_wheel_that_is_not_compiled_is_for_all_platforms_and_says_why(
    tmp_path: Path, variables: dict[str, str], why: str
) -> None:
    printed = run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY, **variables)
    wheel = next(tmp_path.iterdir())
    assert f"the front is not compiled, and serves more slowly: {why}" in printed
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not compiled(wheel)


def test_a_compile_that_is_demanded_and_cannot_be_is_an_error(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY)
    done = attempt(*command, RUNNER_COMPILE="1", CC="no-such-cc")
    assert done.returncode
    assert "the front cannot be compiled: there is no C compiler (no-such-cc); install one" in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_is_installed_to_be_edited_is_never_compiled(tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path)
    run(tmp_path / "bin" / "pip", "install", "--quiet", "--no-deps", "--editable", REPOSITORY, RUNNER_COMPILE="1")
    assert not list(tmp_path.rglob("*__mypyc*.so"))
    assert not list((REPOSITORY / "supervisor").rglob("*.so"))


def test_a_wheel_made_again_elsewhere_is_the_same(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY, RUNNER_COMPILE="1")
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
