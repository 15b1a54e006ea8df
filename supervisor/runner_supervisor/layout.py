"""Where one supervisor keeps its files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import filelock

from runner_supervisor.errors import ConfigError
from runner_supervisor.private import private_folder

SOCKET_PATH_BYTES = 100
"""Unix socket paths end at 104 bytes on macOS and 108 on Linux (sun_path); this leaves some room."""

LONGEST_SOCKET_NAME = "engine-999-999999.sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one state folder. The run folder moves to the temporary folder when its path is too long."""

    state_dir: Path

    @property
    def lock(self) -> Path:
        """Held by the running supervisor."""
        return self.state_dir / "lock"

    @property
    def keys(self) -> Path:
        """The key database."""
        return self.state_dir / "keys.sqlite"

    @property
    def usage(self) -> Path:
        """What keys have used."""
        return self.state_dir / "usage.sqlite"

    @property
    def engine_log(self) -> Path:
        """llama-server's output."""
        return self.state_dir / "logs" / "engine.log"

    @property
    def run_dir(self) -> Path:
        """Sockets and the record of the running engine."""
        beside = self.state_dir / "run"
        if len(os.fsencode(beside / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES:
            return beside
        name = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"runner-supervisor-{os.getuid()}-{name}"

    @property
    def control_socket(self) -> Path:
        """Where `status` and `stop` reach the supervisor."""
        return self.run_dir / "control.sock"

    @property
    def front_log(self) -> Path:
        """The supervisor's own log."""
        return self.state_dir / "logs" / "supervisor.log"

    @property
    def audit_log(self) -> Path:
        """Who asked for what."""
        return self.state_dir / "logs" / "audit.log"

    @property
    def reports(self) -> Path:
        """Reports on engines that hung."""
        return self.state_dir / "logs"

    @property
    def supervisor_record(self) -> Path:
        """The process id of the running supervisor."""
        return self.run_dir / "supervisor.pid"

    @property
    def locked(self) -> bool:
        """Whether a supervisor runs on this state folder, even one that does not answer yet."""
        if self.lock.is_symlink() or not self.lock.exists():
            return False
        lock = filelock.FileLock(self.lock, mode=0o600)
        try:
            with lock.acquire(blocking=False):
                return False
        except filelock.Timeout:
            return True
        except OSError:
            return False

    def create(self) -> None:
        """Make the folders, for their owner only.

        Raises:
            ConfigError: they cannot be made, one is a link, or belongs to somebody else.
        """
        try:
            for folder in (self.state_dir, self.engine_log.parent, self.run_dir):
                private_folder(folder)
        except OSError as error:
            raise ConfigError(
                f"cannot use the state folder {self.state_dir}: {error.strerror}; "
                "name another with --state-dir or RUNNER_STATE_DIR"
            ) from None
