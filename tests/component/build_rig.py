"""A llama.cpp of one file, to be built with real cmake, ninja and compiler. What is built serves: it is the fake."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tests.unit.builders.test_source import git

from runner_builders.pin import Sdist
from runner_builders.verify import ask, read_goldens

FAKE = Path(__file__).parents[1] / "fakes" / "fake_llama_server.py"
TIMEOUT_S = 100
NOWHERE = "http://127.0.0.1:9"
"""A port of this machine's that nobody listens on."""

SERVER = """#define VERSION "version: 1 (tiny)"
#define DEVICES "  (none)"
#define ANSWER "fine"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
const char *built = __FILE__ __DATE__ __TIME__;
int main(int count, char **given) {
    if (count > 1 && !strcmp(given[1], "--version")) { puts(VERSION); return 0; }
    if (count > 1 && !strcmp(given[1], "--list-devices")) { puts("Available devices:"); puts(DEVICES); return 0; }
    char *command[100] = {PYTHON, FAKE, "--answer", ANSWER};
    for (int each = 1; each <= count && each < 90; each++) command[3 + each] = given[each];
    execv(PYTHON, command);
    return 127;
}
""".replace("PYTHON", json.dumps(sys.executable)).replace("FAKE", json.dumps(str(FAKE)))

CMAKE = """cmake_minimum_required(VERSION 3.14)
project(tiny C)
add_executable(llama-server main.c)
set_target_properties(llama-server PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
"""

COMMAND = """
import json, sys
from pathlib import Path
from runner_builders import builds_cli, cli, patches, pin, source
fields, patch_folder, checkout, *sys.argv[1:] = sys.argv[1:]
fields = json.loads(fields)
sdist = pin.Sdist(**fields.pop("sdist")) if fields.get("sdist") else fields.pop("sdist", None)
pinned = pin.Pin(**fields, sdist=sdist, patches=patches.read_patches(Path(patch_folder)))
cli.read_pin = builds_cli.read_pin = lambda: pinned
source.REPOSITORY = Path(checkout)
cli.main()
"""
"""The builder's command with another pin, other patches, and no vendored tree."""


class Tree:
    """A source tree in git, a cache to build it into, and a golden prompt for what is built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.cache = folder / "cache"
        self.patches = folder / "patches"
        self.git_url, self.sdist = NOWHERE, None
        self.sdist: Sdist | None
        self.source.mkdir()
        (self.source / "CMakeLists.txt").write_text(CMAKE)
        git(self.source, "init", "--quiet")
        self.commit = self.write(SERVER)
        self.goldens = folder / "goldens"
        self.goldens.mkdir()
        (self.goldens / "demo.gguf").write_bytes(b"GGUF")
        prompt = {"messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 4, "answer": "fine"}
        fields = {"schema": 1, "model_sha256": hashlib.sha256(b"GGUF").hexdigest(), "prompts": [prompt]}
        (self.goldens / "goldens.json").write_text(json.dumps(fields))

    def write(self, program: str) -> str:
        """Commit another program; that commit is pinned then."""
        (self.source / "main.c").write_text(program)
        git(self.source, "add", ".")
        git(self.source, "commit", "--quiet", "-m", "change")
        self.commit = git(self.source, "rev-parse", "HEAD")
        return self.commit

    def command(self, *arguments: str) -> list[str]:
        """The builder's command line."""
        sdist = asdict(self.sdist) if self.sdist else None
        pin = json.dumps({"commit": self.commit, "git": self.git_url, "sdist": sdist})
        return [sys.executable, "-c", COMMAND, pin, str(self.patches), str(self.folder / "checkout"), *arguments]

    def build_command(self, *arguments: str) -> list[str]:
        """The command line of a build from the source here."""
        options = ["--source", str(self.source), "--verify-with", str(self.goldens)]
        return self.command("build", *options, *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the builder."""
        return os.environ | {"RUNNER_CACHE_DIR": str(self.cache)}

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            command,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def build(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Build from the source here."""
        return self.run(self.build_command(*arguments), **environment)

    def built(self, *arguments: str, **environment: str) -> Path:
        """Build, which works; the build's folder."""
        done = self.build("--print-manifest", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip()).parent

    def in_use(self) -> Path:
        """The folder of the build in use."""
        done = self.run(self.command("build", "--present", "--print-manifest"))
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip()).parent

    def serves(self, build: Path) -> bool:
        """Whether a build is in use, whole, and answers."""
        whole = self.run(self.command("build", "--check")).returncode == 0
        return whole and self.in_use() == build and ask(build / "llama-server", read_goldens(self.goldens)) is None
