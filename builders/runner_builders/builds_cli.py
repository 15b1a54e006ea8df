"""`runner-supervisor builds`: the builds there are, which one is in use, and back to the one before."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from runner_builders.builds import leftovers, list_builds, remove
from runner_builders.builds import use as use_build
from runner_builders.cache import default_cache
from runner_builders.pin import read_pin

commands = typer.Typer(help="Builds of llama-server: list, choose, go back, make room.", no_args_is_help=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@commands.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """Show all builds, the latest first; `*` is the one that `start` uses."""
    builds = list_builds(default_cache())
    if as_json:
        print(json.dumps([asdict(build) for build in builds], indent=2))
        return
    if not builds:
        print("no builds; `runner-supervisor build` makes one")
        return
    table = Table("", "key", "backend", "llama.cpp", "size", "built", "runs as", box=None)
    for build in builds:
        table.add_row(
            "*" if build.in_use else "",
            build.key,
            build.manifest.backend,
            build.manifest.commit[:12],
            _megabytes(build.size_bytes),
            datetime.fromtimestamp(build.finished_s, UTC).strftime("%Y-%m-%d %H:%MZ"),
            ", ".join(str(pid) for pid in build.pids),
        )
    Console(soft_wrap=True).print(table)


@commands.command("use")
def use_command(
    *,
    key: Annotated[str, typer.Argument(help="The build's key, or how it begins.")],
    as_json: JsonOption = False,
) -> None:
    """Have `start` use this build; a supervisor that runs takes it with `reload` or `restart`."""
    _tell(use_build(default_cache(), key), as_json=as_json)


@commands.command("rollback")
def rollback_command(*, as_json: JsonOption = False) -> None:
    """Have `start` use the build that was used before this one."""
    _tell(default_cache().rollback(), as_json=as_json)


@commands.command("prune")
def prune_command(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what is not needed: all builds but the one in use, the one before and those that run; old sources."""
    going = leftovers(default_cache(), commit=read_pin().commit)
    if not dry_run:
        for leftover in going:
            remove(leftover)
    freed_bytes = sum(leftover.size_bytes for leftover in going)
    if as_json:
        paths = [str(leftover.path) for leftover in going]
        print(json.dumps({"paths": paths, "bytes": freed_bytes, "removed": not dry_run}))
        return
    for leftover in going:
        print(f"{'would remove' if dry_run else 'removed'} {leftover.path} ({_megabytes(leftover.size_bytes)})")
    print(f"{_megabytes(freed_bytes)} {'would be ' if dry_run else ''}freed")


def _tell(key: str, *, as_json: bool) -> None:
    print(
        json.dumps({"key": key})
        if as_json
        else f"build {key} is in use; `runner-supervisor restart` takes it at once"
    )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
