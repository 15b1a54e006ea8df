"""What we are made of: no shells, and ranges of packages that end before what nobody has tried."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


def shells(source: str) -> Iterator[int]:
    """The lines that give a command to a shell."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = any(keyword.arg == "shell" for keyword in node.keywords)
            if given or name in SHELLS:
                yield node.lineno


@pytest.mark.parametrize(
    "source", ["os.system('x')", "subprocess.run('x', shell=True)", "run(x, shell=wanted)", "os.popen(x)"]
)
def test_a_shell_is_noticed(source: str) -> None:
    assert list(shells(source)) == [1]


def test_nothing_is_given_to_a_shell() -> None:
    files = [path for folder in ("supervisor", "builders", "tools") for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 50
    found = {path: lines for path in files if (lines := list(shells(path.read_text())))}
    assert found == {}


def test_every_package_we_need_has_a_range_with_an_end() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["otel"], *extras["redis"]]
    assert [package for package in needed if ">=" not in package or ",<" not in package] == []


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_images_are_labelled_with_our_version(image: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in (REPOSITORY / "docker" / f"Dockerfile.{image}").read_text()
