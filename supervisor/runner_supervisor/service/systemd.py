"""systemd's units: from values to text. What a directive does is in systemd.exec(5), .service(5) and .socket(5)."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from runner_supervisor.errors import ConfigError
from runner_supervisor.service.unit import NAME, OPEN_FILES, Command, Installation, Scope, Unit

SERVICE, SOCKET = f"{NAME}.service", f"{NAME}.socket"
NOTE = f"# Written by `{NAME} service install`. Changes go into a drop-in: `systemctl edit {NAME}`.\n"

SERVICE_UNIT = """\
[Unit]
Description=llama.cpp's llama-server, supervised and fronted
Requires={socket}
After={socket}
# Failures that RestartSec= spaces never reach this; connections that start it again and again in vain do.
StartLimitIntervalSec=60
StartLimitBurst=60

[Service]
Type=notify
NotifyAccess=main
ExecStart={command} start
ExecReload={command} reload
{place}EnvironmentFile=-%E/{name}/environment
{keys}SyslogIdentifier={name}

# A start, a reload and a stop ask for more time while they get on, so these find hangs alone.
TimeoutStartSec=120
TimeoutStopSec={stop_s:g}
TimeoutAbortSec=10
WatchdogSec=30
Restart=on-failure
RestartSec=1
# The configuration cannot work: starting again will not help.
RestartPreventExitStatus=78
# A stop in the middle of a first build.
SuccessExitStatus=143
# llama-server is told to end when its requests are done, not at once, and what is left is killed.
KillMode=mixed
# When the kernel ends llama-server for its memory, it comes back with less; the service goes on.
OOMPolicy=continue
LimitNOFILE={open_files}
LimitCORE=0
{sandbox}
[Install]
WantedBy={wanted_by}
Also={socket}
"""

SOCKET_UNIT = """\
[Unit]
Description=Where clients reach {name}; they wait here while it is restarted

[Socket]
ListenStream={address}
Backlog=2048
NoDelay=yes
# The address may come to this machine later.
FreeBind=yes

[Install]
WantedBy=sockets.target
"""

SYSTEM_PLACE = """\
User={user}
StateDirectory={name}
StateDirectoryMode=0700
CacheDirectory={name}
CacheDirectoryMode=0700
Environment=RUNNER_STATE_DIR=%S/{name}
Environment=RUNNER_CACHE_DIR=%C/{name}
"""

SANDBOX = """
NoNewPrivileges=yes
UMask=0077
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
"""
"""What a user's own manager can do as well."""

SYSTEM_SANDBOX = """\
CapabilityBoundingSet=
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
"""

GPU_DROP_IN = """\
# The devices of NVIDIA's (char-nvidia*), AMD's (char-kfd) and everybody's (char-drm) GPUs.
[Service]
PrivateDevices=no
DevicePolicy=closed
DeviceAllow=char-nvidia* rw
DeviceAllow=char-kfd rw
DeviceAllow=char-drm rw
SupplementaryGroups={groups}
"""


def service_unit(unit: Unit) -> str:
    """The service's unit file."""
    system = unit.scope is Scope.SYSTEM
    place = SYSTEM_PLACE.format(user=unit.user, name=NAME) if system else ""
    place += "".join(f"Environment={quoted(f'{name}={value}')}\n" for name, value in unit.environment)
    keys = f"LoadCredential=api-keys:{escaped(str(unit.keys_file))}\nEnvironment=RUNNER_API_KEYS_FILE=%d/api-keys\n"
    return NOTE + SERVICE_UNIT.format(
        name=NAME,
        socket=SOCKET,
        command=quoted(str(unit.command)).replace("$", "$$"),
        place=place,
        keys=keys if unit.keys_file else "",
        stop_s=unit.stop_s,
        open_files=OPEN_FILES,
        sandbox=SANDBOX + SYSTEM_SANDBOX if system else SANDBOX,
        wanted_by="multi-user.target" if system else "default.target",
    )


def socket_unit(unit: Unit) -> str:
    """The socket's unit file.

    Raises:
        ConfigError: the address is none that systemd listens on.
    """
    return NOTE + SOCKET_UNIT.format(name=NAME, address=_listen_stream(unit.host, unit.port))


def gpu_drop_in(groups: tuple[str, ...]) -> str:
    """The drop-in that gives the service GPUs, as a member of these groups too."""
    return NOTE + GPU_DROP_IN.format(groups=" ".join(groups))


def sysusers(unit: Unit) -> str:
    """Who the service runs as (sysusers.d(5))."""
    return f'u {unit.user} - "llama-server, supervised" /var/lib/{NAME}\n'


def installation(unit: Unit, *, home: Path, config_home: Path) -> Installation:
    """All that is to be installed.

    Args:
        unit: what is to run.
        home: the root of the machine's own configuration, `/etc`.
        config_home: the user's, `~/.config`.
    """
    system = unit.scope is Scope.SYSTEM
    folder = (home if system else config_home) / "systemd" / unit.scope
    files = [(folder / SERVICE, service_unit(unit)), (folder / SOCKET, socket_unit(unit))]
    systemctl: Command = ("systemctl",) if system else ("systemctl", "--user")
    enable: list[Command] = [(*systemctl, "daemon-reload"), (*systemctl, "enable", SOCKET, SERVICE)]
    clean: list[Command] = []
    if system:
        users = home / "sysusers.d" / f"{NAME}.conf"
        files.append((users, sysusers(unit)))
        enable.insert(0, ("systemd-sysusers", str(users)))
        clean.append((*systemctl, "clean", "--what=cache", SERVICE))
        if unit.gpu_groups is not None:
            files.append((folder / f"{SERVICE}.d" / "gpu.conf", gpu_drop_in(unit.gpu_groups)))
    return Installation(
        files=tuple(files),
        enable=tuple(enable),
        start=((*systemctl, "restart", SOCKET, SERVICE),),
        disable=(
            (*systemctl, "disable", "--now", SOCKET, SERVICE),
            (*systemctl, "reset-failed", f"{NAME}.*"),  # a pattern: what is not loaded cannot be named
            *clean,
        ),
        after=((*systemctl, "daemon-reload"),),
    )


def escaped(text: str) -> str:
    """Text in which systemd expands nothing.

    Raises:
        ConfigError: it cannot stand in a unit file.
    """
    if not text.isprintable():
        raise ConfigError(f"{text!r} cannot stand in a unit file; name it without control characters")
    return text.replace("%", "%%")


def quoted(text: str) -> str:
    """One word of a unit file (systemd.syntax(7)), in quotes where it needs them."""
    plain = escaped(text)
    if not set(plain) & set(" \t\"'\\;#"):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _listen_stream(host: str, port: int) -> str:
    if port == 0:
        raise ConfigError("a service needs a port of its own; name it with --port")
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ConfigError(f"systemd listens on addresses, and {host} is a name; name one with --host") from None
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
