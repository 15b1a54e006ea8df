"""launchd's property list: from values to text. What a key does is in launchd.plist(5)."""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

from runner_supervisor.service.unit import NAME, OPEN_FILES, Installation, Scope, Unit

UMASK = 0o077


def property_list(unit: Unit, *, home: Path) -> str:
    """The agent's (a user's) or daemon's (the machine's) property list, as XML. `home`: of the user it runs as."""
    logs = home / "Library" / "Logs" / f"{NAME}.log"
    environment = dict(unit.environment) | {"RUNNER_HOST": unit.host, "RUNNER_PORT": str(unit.port)}
    if unit.keys_file:
        environment["RUNNER_API_KEYS_FILE"] = str(unit.keys_file)
    content: dict[str, Any] = {
        "Label": NAME,
        "ProgramArguments": [str(unit.command), "start"],
        "EnvironmentVariables": environment,
        "WorkingDirectory": str(home),
        "StandardOutPath": str(logs),
        "StandardErrorPath": str(logs),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": round(unit.stop_s),
        "ProcessType": "Interactive",  # anything less is slowed down in favour of what has windows
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES, "Core": 0},
        "HardResourceLimits": {"NumberOfFiles": OPEN_FILES, "Core": 0},
        "Umask": UMASK,
    }
    if unit.scope is Scope.SYSTEM:
        content["UserName"] = unit.user
    return plistlib.dumps(content, sort_keys=False).decode()


def installation(unit: Unit, *, home: Path) -> Installation:
    """All that is to be installed for the user whose home this is.

    launchctl's `load` and `unload` are content where there is nothing to do; `bootstrap` and `bootout` fail then.
    """
    system = unit.scope is Scope.SYSTEM
    folder = Path("/Library/LaunchDaemons") if system else home / "Library" / "LaunchAgents"
    path = folder / f"{NAME}.plist"
    unload = ("launchctl", "unload", str(path))
    return Installation(
        files=((path, property_list(unit, home=home)),),
        enable=(),
        start=(unload, ("launchctl", "load", str(path))),
        disable=(unload,),
        after=(),
    )
