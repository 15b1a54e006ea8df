"""What is known before anything is compiled, for people and as JSON: a plan, and what a machine can build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from runner_builders.auto import choose_backend
from runner_builders.backends import BACKENDS
from runner_builders.build import Planned
from runner_builders.cache import Cache
from runner_builders.errors import BuilderError
from runner_builders.patches import fingerprints
from runner_builders.pin import Pin
from runner_builders.plan import BuildPlan, Wishes, make_plan
from runner_builders.toolchain import Missing, Toolchain
from runner_builders.toolchain.values import dotted


def plan_fields(plan: BuildPlan) -> dict[str, Any]:
    """A plan as JSON holds it."""
    fields = asdict(plan) | {"key": plan.key, "patches": fingerprints(plan.patches)}
    return dict(json.loads(json.dumps(fields, default=str)))


def print_plan(planned: Planned, *, as_json: bool) -> None:
    """Print a plan with its reasons."""
    plan = planned.plan
    if as_json:
        print(json.dumps(plan_fields(plan) | {"jobs": planned.jobs, "choice": planned.choice}, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    if planned.choice:
        console.print(f"{plan.backend}, because {planned.choice}", markup=False)
    table = Table("option", "value", "reason", title=f"{plan.backend} build {plan.key} of {plan.commit[:12]}")
    for option in (*plan.options, *plan.launchers):
        table.add_row(option.name, option.value, option.reason)
    console.print(table)
    for line in (
        *(f"patch {patch.name}" for patch in plan.patches),
        *(f"from the package index: {wheel.requirement}" for wheel in plan.wheels),
        f"installs {', '.join(plan.outputs)}; {planned.jobs} jobs at once",
    ):
        console.print(line, markup=False)


def report(toolchain: Toolchain, pin: Pin, cache: Cache) -> dict[str, Any]:
    """What a machine has to build with, which backend it is for, and for each whether it can be built.

    Of what is missing, and of a backend that cannot be built, `why` says what to do about it. `words` are for people.
    """
    choice = choose_backend(toolchain)
    found = {name: _part(part) for name, part in _parts(toolchain)}
    return {
        "cache": str(cache.root),
        "found": {name: part | {"words": _in_words(part)} for name, part in found.items()},
        "auto": asdict(choice),
        "backends": {name: _can_build(name, toolchain, pin) for name in BACKENDS},
    }


def _parts(toolchain: Toolchain) -> Iterator[tuple[str, Any]]:
    tools = toolchain.tools
    yield from (("compilers", toolchain.compilers), ("cmake", tools.cmake), ("ninja", tools.ninja))
    yield from (("compiler cache", tools.launcher or Missing("none found; with ccache the next build is faster")),)
    yield from (("CUDA toolkit", toolchain.cuda), ("NVIDIA driver", toolchain.driver), ("macOS SDK", toolchain.apple))
    yield from (("glslc", tools.glslc), ("hipcc", tools.hipcc))


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, Missing):
        return {"present": False, "why": part.why}
    fields = json.loads(json.dumps(asdict(part), default=str))
    versions = {
        name: dotted(getattr(part, name)) for name in ("version", "cuda") if isinstance(fields.get(name), list)
    }
    return {"present": True, **fields, **versions}


def _can_build(name: str, toolchain: Toolchain, pin: Pin) -> dict[str, Any]:
    try:
        make_plan(name=name, backend=BACKENDS[name], pin=pin, toolchain=toolchain, wishes=Wishes())
    except BuilderError as error:
        return {"can_build": False, "why": str(error)}
    return {"can_build": True}


def print_report(found: dict[str, Any], *, as_json: bool) -> None:
    """Print a machine's report."""
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    for name, part in found["found"].items():
        console.print(f"{name}: {part['words']}", markup=False)
    for name, backend in found["backends"].items():
        console.print(f"{name}: {'can be built' if backend['can_build'] else backend['why']}", markup=False)
    console.print(f"chosen here: {found['auto']['backend']}, because {found['auto']['reason']}", markup=False)


def _in_words(part: dict[str, Any]) -> str:
    if not part["present"]:
        return str(part["why"])
    place = next((str(part[name]) for name in ("nvcc", "cxx", "path", "codesign") if name in part), "")
    version = str(part.get("description") or part.get("version") or part.get("sdk"))
    gpus = ", ".join(f"{gpu['name']} (sm_{gpu['architecture']})" for gpu in part.get("gpus", ()))
    return ", ".join(filter(None, (version, place, gpus)))
