"""What the commands print: tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runner_supervisor.calls import Ready
from runner_supervisor.doctor import Examination, Finding, Level
from runner_supervisor.engine.sizing import Sizing, mib

out = Console(soft_wrap=True, emoji=False)
err = Console(stderr=True, soft_wrap=True, emoji=False)

COLOURS = {"ready": "green", "failed": "red"}
LAST_LINES = 5
FINDING_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}
LEVELS = ("debug", "info", "warning", "error")
LEVEL_COLOURS = {"debug": "dim", "warning": "yellow", "error": "red"}


def banner(ready: Ready) -> None:
    """What is served where, and a line to try it with."""
    rows = [
        ("address", ready.address if ready.host in ready.address else f"{ready.address} (listening on {ready.host})"),
        ("dashboard", f"{ready.address}/dashboard"),
        ("model", str(ready.model)),
        ("backend", ready.backend),
        ("engine log", str(ready.log)),
    ]
    if ready.new_key:
        rows.append(("API key", f"{ready.new_key}  (shown this once: only its hash is kept)"))
    elif ready.needs_key:
        rows.append(("API key", _where_keys_are(ready)))
    elif ready.open_to_all:
        rows.append(("INSECURE", f"whoever can reach {ready.host} may use it, without a key"))
    if out.is_terminal:
        grid = _grid(rows, styles={"INSECURE": "bold red"})
        out.print(Panel(grid, title="runner-supervisor is ready", expand=False, border_style="green"))
    else:
        out.print("runner-supervisor is ready")
        _plain(rows)
    out.print(
        "Try it:" if ready.new_key or not ready.needs_key else "Try it, with your key in API_KEY:", style="bold"
    )
    out.print(_curl(ready), highlight=False, markup=False)


def status(answer: dict[str, Any]) -> None:
    """What `/admin/status` answered."""
    engine = answer["engine"]
    drain = " (draining)" if answer["draining"] else ""
    memory = f"{mib(engine['memory_bytes'])} of {mib(engine['needed_bytes'])} estimated"
    rows = [
        ("address", answer["address"]),
        ("engine", f"{engine['state']} for {engine['state_age_s']:.0f} s{drain}"),
        ("engine pid", str(engine["pid"] or "-")),
        ("model", engine["model"]),
        ("backend", f"{engine['backend']} (llama.cpp {engine['commit']})"),
        ("memory", "; ".join([memory, *engine["lowered"]])),
        (
            "in flight",
            f"{answer['in_flight']}, {answer['queued']} of them waiting for one of {engine['slots']} slots",
        ),
        ("restarts", str(engine["restarts"])),
        ("last death", _death(engine)),
        *(("", line) for line in engine["last_lines"][-LAST_LINES:] if engine["state"] != "ready"),
    ]
    if engine["retry_in_s"] is not None:
        rows.append(("next start", f"in {engine['retry_in_s']:.0f} s, or at once with `runner-supervisor restart`"))
    if change := answer["change"]:
        rows.append((f"last {change['what']}", f"{change['progress']}: {change['detail']}"))
    rows += [
        ("engine log", engine["log"]),
        ("supervisor", f"pid {answer['pid']}, up {answer['uptime_s']:.0f} s, version {answer['version']}"),
    ]
    pairs(rows, styles={"engine": COLOURS.get(engine["state"], "yellow")})


def pairs(rows: list[tuple[str, str]], *, styles: dict[str, str] | None = None) -> None:
    """Names and values, one a line. `styles`: of the values, by name."""
    if out.is_terminal:
        out.print(_grid(rows, styles=styles))
    else:
        _plain(rows)


def _death(engine: dict[str, Any]) -> str:
    if not engine["last_death"]:
        return "-"
    return f"{engine['last_death']}, {engine['last_death_age_s']:.0f} s ago"


def sizing(found: Sizing, *, to: Console) -> None:
    """The memory that a model takes, line by line."""
    if to.is_terminal:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for name, size, how in found.lines:
            total = name.startswith(("needed", "free"))
            table.add_row(name, Text(size, justify="right"), Text(how, style="dim"), style="bold" if total else None)
        to.print(table)
        return
    for name, size, how in found.lines:
        to.print(f"{name:<28} {size:>15}  {how}".rstrip(), highlight=False, markup=False)


def examination(found: Examination) -> None:
    """What `check` found, a line each, and the memory that the model takes."""
    for finding in found.findings:
        _finding(finding)
    if found.sizing:
        out.print()
        sizing(found.sizing, to=out)
    out.print()
    verdict = "a start would work" if found.works else "a start would not work: see what fails above"
    out.print(verdict, style="bold" if found.works else "bold red", highlight=False)


def _finding(finding: Finding) -> None:
    if out.is_terminal:
        level = Text(f"{finding.level:<5}", style=FINDING_COLOURS[finding.level])
        out.print(Text.assemble(level, f"{finding.what:<16} ", finding.found))
        if finding.advice:
            out.print(Text(f"{'':<22} {finding.advice}", style="italic"))
        return
    advice = f"; {finding.advice}" if finding.advice else ""
    out.print(f"{finding.level:<5} {finding.what:<16} {finding.found}{advice}", highlight=False, markup=False)


def examination_as_json(found: Examination) -> dict[str, Any]:
    """What `check` found, as JSON has it. Sizes are bytes."""
    memory = None
    if found.sizing:
        fit, free = found.sizing.fit, found.sizing.free
        memory = {
            "fits": fit.fits,
            "largest_context": fit.largest_ctx,
            "needed_bytes": fit.estimate.working_bytes,
            "free_bytes": free.host_bytes,
            "needed_gpu_bytes": fit.estimate.gpu_bytes,
            "free_gpu_bytes": list(free.gpu_bytes),
            "items": [asdict(item) for item in fit.estimate.items],
        }
    return {"works": found.works, "findings": [asdict(each) for each in found.findings], "memory": memory}


def is_at_least(level: str, least: str) -> bool:
    """Whether a line of a log of that level is at least of the other."""
    return LEVELS.index(level) >= LEVELS.index(least)


def log_line(line: str, level: str) -> None:
    """One line of a log: in colour on a terminal, as it is in a pipe."""
    out.print(line, style=LEVEL_COLOURS.get(level), highlight=False, markup=False)


def log_line_as_json(line: str, level: str, *, source: str) -> None:
    """One line of a log with what is known of it."""
    out.print(
        json.dumps({"source": source, "level": level, "line": line}), highlight=False, markup=False, soft_wrap=True
    )


def _where_keys_are(ready: Ready) -> str:
    make = f"make another with `runner-supervisor keys create --state-dir {ready.state_dir} --name NAME`"
    return (
        f"needed: one of those in {' and '.join(ready.given_in)}; or {make}"
        if ready.given_in
        else f"needed. Lost? {make}"
    )


def _curl(ready: Ready) -> str:
    key = f' -H "Authorization: Bearer {ready.new_key or "$API_KEY"}"' if ready.needs_key else ""
    trust = f" --cacert {shlex.quote(str(ready.certificate))}" if ready.certificate else ""
    body = '{"messages":[{"role":"user","content":"Hello!"}],"max_tokens":48}'
    return f"curl{trust} {ready.address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"


def table(heads: list[str], rows: list[list[str]]) -> None:
    """Rows under their heads, in columns."""
    if out.is_terminal:
        grid = Table(*heads, box=None, padding=(0, 2, 0, 0), header_style="bold")
        for row in rows:
            grid.add_row(*map(Text, row))
        out.print(grid)
        return
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    for row in [heads, *rows]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print(line.rstrip(), highlight=False, markup=False)


def _grid(rows: list[tuple[str, str]], *, styles: dict[str, str] | None = None) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(value, style=(styles or {}).get(name, "")))
    return grid


def _plain(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        out.print(f"{name + ':' if name else '':<12} {value}", highlight=False, markup=False)
