"""The builder's command line; `runner-supervisor build` hands its arguments on to it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from runner_builders import builds_cli, vendor_cli
from runner_builders.backends import BACKENDS
from runner_builders.build import AUTO, Request, build, plan_for, reusable
from runner_builders.cache import Cache, default_cache
from runner_builders.errors import BuilderError, CompileError
from runner_builders.manifest import Manifest, damage
from runner_builders.pin import read_pin
from runner_builders.plan import CUDA_LIBS, Wishes, parse_options
from runner_builders.prebuilt import prebuilt
from runner_builders.progress import BarReporter, JsonReporter, PlainReporter, Reporter
from runner_builders.report import print_plan, print_report, report
from runner_builders.toolchain import detect
from runner_builders.verify import Goldens, read_goldens

commands = typer.Typer(help="Builds llama-server for this machine.", pretty_exceptions_enable=False)
commands.add_typer(vendor_cli.commands)
commands.add_typer(builds_cli.commands, name="builds")
err = Console(stderr=True, soft_wrap=True)


def main() -> NoReturn:
    """Run the command line; errors end in one line on stderr and their exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    try:
        commands(prog_name="runner-supervisor")
    except BuilderError as error:
        if isinstance(error, CompileError):
            err.print(Text("\n".join(error.tail)))
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


@commands.callback()
def root() -> None:
    """Builds llama-server for this machine."""


@commands.command("build")
def build_command(
    *,
    backend: Annotated[str, typer.Option(help=f"What to compute on: {', '.join((AUTO, *BACKENDS))}.")] = AUTO,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="GPU architectures (sm_90), or a kind of processor (x86-64-v3).", show_default="this machine"
        ),
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="Build for every processor, to be copied around.")
    ] = False,
    option: Annotated[list[str] | None, typer.Option(help="A CMake option, NAME=VALUE; it wins over ours.")] = None,
    cuda_libs: Annotated[str, typer.Option(help=f"Where cuBLAS comes from: {', '.join(CUDA_LIBS)}.")] = "auto",
    source: Annotated[
        Path | None, typer.Option(help="llama.cpp source folder.", show_default="found or fetched")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Compile jobs at once.", show_default="what processors and memory bear")
    ] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take the build in use if it is at the pin and for this machine.")
    ] = False,
    present: Annotated[
        bool, typer.Option("--present", help="Take the build in use, whatever it is, and build nothing.")
    ] = False,
    checking: Annotated[
        bool, typer.Option("--check", help="See whether the build in use is what was built; exit code 1 if not.")
    ] = False,
    verify_with: Annotated[
        Path | None, typer.Option(help="Folder with golden prompts and their model.", show_default="the demo model's")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and build nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events, or the plan, as JSON.")] = False,
    print_manifest: Annotated[
        bool, typer.Option("--print-manifest", help="Print the manifest's path alone on stdout.")
    ] = False,
) -> None:
    """Build llama-server at the pinned commit, unless it is built, and make it the one that `start` uses."""
    _check_choice("backend", backend, (AUTO, *BACKENDS))
    _check_choice("source of cuBLAS", cuda_libs, CUDA_LIBS)
    wishes = Wishes(
        arch=tuple(name for text in arch or () for name in text.split(",")),
        portable=portable,
        options=parse_options(option or []),
        cuda_libs=cuda_libs,
    )
    request = Request(backend=backend, source=source, jobs=jobs, wishes=wishes)
    pin = read_pin()
    cache = default_cache()
    if dry_run:
        print_plan(plan_for(request, pin, cache), as_json=as_json)
        return
    if checking:
        _check(cache, as_json=as_json)
        return
    goldens = read_goldens(verify_with) if verify_with else None
    directory = os.environ.get("LLAMA_CPP_DIR")
    if directory:
        manifest: Path | None = prebuilt(Path(directory), goldens=goldens, cache=cache, say=_warn)
    elif present:
        manifest = _current(cache)[0]
    else:
        manifest = reusable(cache, pin) if reuse else None
        if manifest is None:
            with _reporter(as_json=as_json) as reporter:
                manifest = build(request, pin=pin, goldens=_require(goldens), cache=cache, reporter=reporter)
    if print_manifest:
        print(manifest)
    elif as_json:
        print(json.dumps({"event": "done", "manifest": str(manifest)}))
    else:
        print(f"llama-server is ready: {manifest}")


def _current(cache: Cache) -> tuple[Path, Manifest]:
    used = cache.current()
    if used is None:
        raise BuilderError("no build is in use; run `runner-supervisor build`")
    return used


def _check(cache: Cache, *, as_json: bool) -> None:
    if os.environ.get("LLAMA_CPP_DIR"):
        raise BuilderError("what LLAMA_CPP_DIR names was built elsewhere: there is no record to check it against")
    path, manifest = _current(cache)
    found = damage(path.parent, manifest)
    if as_json:
        print(json.dumps({"manifest": str(path), "files": len(manifest.files), "damage": found}))
    if found:
        raise BuilderError(
            f"the build in {path.parent} is not what was built: {'; '.join(found)}; find out who or what changed it, "
            "then make it again with `runner-supervisor build`"
        )
    if not as_json:
        print(f"all is as it was built, {len(manifest.files)} files: {path}")


def _require(goldens: Goldens | None) -> Goldens:
    if goldens is None:
        raise BuilderError(
            "nothing is installed that has not answered golden prompts; name a folder of them with --verify-with, "
            "or run `runner-supervisor build`, which has one"
        )
    return goldens


def _warn(text: str) -> None:
    err.print(Text(text))


def _reporter(*, as_json: bool) -> Reporter:
    if as_json:
        return JsonReporter()
    return BarReporter(err) if err.is_terminal else PlainReporter()


def _check_choice(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise BuilderError(f"unknown {what} {given}; choose one of: {', '.join(known)}")


@commands.command("toolchain")
def toolchain_command(*, as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """What this machine has to build with, and for each backend whether it can be built, or what to do."""
    print_report(report(detect(), read_pin(), default_cache()), as_json=as_json)
