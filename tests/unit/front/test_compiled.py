"""What mypyc compiles to something else, without a word, is not in the modules that it compiles."""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def modules() -> list[str]:
    """The modules of the list."""
    hook = tomllib.loads(PYPROJECT.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    return [f"runner_supervisor.{name.removesuffix('.py').replace('/', '.')}" for name in hook["modules"]]


def constants(module: str) -> Iterator[ast.Assign | ast.AnnAssign]:
    """The statements that give a module's constants their values."""
    for statement in ast.parse(inspect.getsource(import_module(module))).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        names = [
            name.id for target in targets for name in ast.walk(target or ast.Pass()) if isinstance(name, ast.Name)
        ]
        if names and all(name.isupper() for name in names):
            assert isinstance(statement, (ast.Assign, ast.AnnAssign))
            yield statement


def classes() -> Iterator[type]:
    """Those that become classes of C."""
    for module in map(import_module, modules()):
        for _, found in inspect.getmembers(module, inspect.isclass):
            if found.__module__ == module.__name__ and not is_dataclass(found):
                yield found


def test_the_list_names_modules_once_and_in_order() -> None:
    assert modules() == sorted(set(modules()))


def test_no_class_says_none_for_a_protocol() -> None:
    """The attribute would not be there: mypyc leaves such a default out. It is set in `__init__` instead."""
    left_out = []
    for each in classes():
        hints = get_type_hints(each)
        for name in (name for name, value in vars(each).items() if value is None and name in hints):
            others = [kind for kind in get_args(hints[name]) if kind is not type(None)]
            if len(others) > 1 or getattr(others[0], "_is_protocol", False):
                left_out.append(f"{each.__module__}.{each.__qualname__}.{name}")
    assert not left_out


def test_constants_are_final() -> None:
    """Any other name of a module is looked up in its dictionary each time."""
    assert [
        f"{module}: {ast.unparse(statement)}"
        for module in modules()
        for statement in constants(module)
        if isinstance(statement, ast.Assign) or not ast.unparse(statement.annotation).startswith("Final")
    ] == []
