"""`runner-supervisor vendor`: llama.cpp's source in this checkout, and where its pin is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from runner_builders.errors import SourceError
from runner_builders.pin import read_pin
from runner_builders.vendor import Move, vendor

commands = typer.Typer()


@commands.command("vendor")
def vendor_command(
    *,
    ref: Annotated[
        str | None, typer.Option(help="Move the pin to this commit or tag of llama.cpp.", show_default="stay")
    ] = None,
    sdist: Annotated[
        str | None, typer.Option(help="With --ref: name==version of an sdist with that commit.", show_default="none")
    ] = None,
    submodule: Annotated[bool, typer.Option("--submodule", help="Register it as a git submodule.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything and change nothing.")] = False,
) -> None:
    """Fill third_party/llama.cpp with the pinned source, or move the pin first."""
    if sdist and not ref:
        raise SourceError("--sdist says where a new pin comes from; give --ref too")
    if sdist and "==" not in sdist:
        raise SourceError(f"--sdist {sdist} names no version; give name==version")
    out = Console(soft_wrap=True)
    vendor(
        read_pin(),
        move=Move(ref, sdist) if ref else None,
        submodule=submodule,
        dry_run=dry_run,
        say=lambda text: out.print(text, highlight=False, markup=False),
    )
