"""The builder's command with real cmake, ninja and compiler, on a llama.cpp of one file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import psutil
import pytest
from tests.unit.builders.test_source import git

TIMEOUT_S = 100
SERVER = 'int printf(const char *, ...);\nint main() { printf("version: %s (tiny)\\n", "1"); return 0; }\n'
CMAKE = "cmake_minimum_required(VERSION 3.14)\nproject(tiny C)\nadd_executable(llama-server main.c)\n"
CMAKE += "set_target_properties(llama-server PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"

BUILD = """
import sys
from pathlib import Path
from dataclasses import replace
from runner_builders import cli, patches, pin
commit, folder, *arguments = sys.argv[1:]
original = pin.read_pin()
cli.read_pin = lambda: replace(original, commit=commit, patches=patches.read_patches(Path(folder)))
sys.argv = ["builder", "build", *arguments]
cli.main()
"""
"""The command with another pin and patches: the folder under test cannot have llama.cpp's commit."""


class Tree:
    """A source tree in git, and a cache to build it into."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.cache = folder / "cache"
        self.patches = folder / "patches"
        self.source.mkdir()
        (self.source / "CMakeLists.txt").write_text(CMAKE)
        git(self.source, "init", "--quiet")
        self.commit = self.write(SERVER)

    def write(self, program: str) -> str:
        (self.source / "main.c").write_text(program)
        git(self.source, "add", ".")
        git(self.source, "commit", "--quiet", "-m", "change")
        self.commit = git(self.source, "rev-parse", "HEAD")
        return self.commit

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", BUILD, self.commit, str(self.patches), "--source", str(self.source), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"RUNNER_CACHE_DIR": str(self.cache)}

    def build(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_build_is_installed_with_its_manifest_and_kept(tree: Tree) -> None:
    first = tree.build("--print-manifest")
    assert first.returncode == 0, first.stderr
    assert "compiling llama-server: 2 of 2 (100 %)" in first.stderr
    path = Path(first.stdout.strip())
    manifest = json.loads(path.read_text())
    assert (manifest["commit"], manifest["version"]) == (tree.commit, "version: 1 (tiny)")
    assert manifest["options"]["GGML_NATIVE"] == "ON"
    assert os.access(path.parent / manifest["binary"], os.X_OK)
    assert not list((tree.cache / "compile").glob("*-*"))

    second = tree.build("--print-manifest")
    assert (second.stdout, second.stderr) == (first.stdout, "")


def test_a_build_with_other_options_is_not_reused(tree: Tree) -> None:
    first = tree.build("--print-manifest")
    assert tree.build("--reuse", "--print-manifest").stdout == first.stdout
    built = Path(first.stdout.strip()).parent
    other = built.rename(built.with_name("other")) / "manifest.json"
    manifest = json.loads(other.read_text())
    other.write_text(json.dumps(manifest | {"options": manifest["options"] | {"GGML_OPENMP": "ON"}}))
    (tree.cache / "current.json").write_text('{"key": "other"}')
    assert tree.build("--reuse", "--print-manifest").stdout == first.stdout


def test_an_option_that_was_asked_for_wins_and_outlives_the_asking(tree: Tree) -> None:
    built = tree.build("--option", "GGML_OPENMP=ON", "--option", "GGML_LTO=ON", "--print-manifest").stdout
    manifest = json.loads(Path(built.strip()).read_text())
    assert manifest["asked"] == {"GGML_OPENMP": "ON", "GGML_LTO": "ON"}
    assert manifest["asked"].items() <= manifest["options"].items()
    assert tree.build("--reuse", "--print-manifest").stdout == built


def test_a_portable_build_is_a_folder_that_can_be_moved(tree: Tree, tmp_path: Path) -> None:
    (tree.source / "CMakeLists.txt").write_text(
        CMAKE + "add_library(part part.c)\ntarget_link_libraries(llama-server part)\n"
        "set_target_properties(part PROPERTIES VERSION 1.2 LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
    )
    (tree.source / "part.c").write_text('const char *part(void) { return "of parts"; }\n')
    tree.write(SERVER.replace("int main", "const char *part(void);\nint main").replace('"1"', "part()"))
    built = Path(tree.build("--portable", "--print-manifest").stdout.strip()).parent
    assert {path.name for path in built.iterdir()} >= {"llama-server", "libpart.so"}
    assert not [path for path in built.iterdir() if path.is_symlink()]
    moved = built.rename(tmp_path / "moved")
    said = subprocess.run([moved / "llama-server"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert said.stdout == "version: of parts (tiny)\n"


def test_a_compiler_cache_speeds_up_a_build_and_leaves_its_key(tree: Tree, tmp_path: Path) -> None:
    plain = json.loads(tree.build("--dry-run", "--json").stdout)
    calls = tmp_path / "calls"
    ccache = tmp_path / "bin" / "ccache"
    ccache.parent.mkdir()
    ccache.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n[ "$1" = --version ] && echo 4.7.5 || exec "$@"\n')
    ccache.chmod(0o755)
    path = f"{ccache.parent}:{os.environ['PATH']}"
    done = tree.build("--print-manifest", PATH=path)
    assert done.returncode == 0, done.stderr
    assert "main.c" in calls.read_text()
    manifest = Path(done.stdout.strip())
    assert manifest.parent.name == plain["key"]
    assert "LAUNCHER" not in manifest.read_text()


def test_patches_go_into_the_build_and_its_manifest_but_not_into_the_source(tree: Tree) -> None:
    plain = json.loads(Path(tree.build("--print-manifest").stdout.strip()).read_text())
    tree.patches.mkdir()
    diff = f"--- a/main.c\n+++ b/main.c\n@@ -2,1 +2,1 @@\n-{SERVER.splitlines()[1]}\n+{SERVER.splitlines()[1]}\n"
    (tree.patches / "0001-renamed.patch").write_text(
        diff.replace('+int main() { printf("version: %s (tiny)', '+int main() { printf("version: %s (patched)')
    )

    done = tree.build("--reuse", "--print-manifest")
    assert done.returncode == 0, done.stderr
    patched = json.loads(Path(done.stdout.strip()).read_text())
    assert (plain["version"], plain["patches"]) == ("version: 1 (tiny)", {})
    assert (patched["version"], list(patched["patches"])) == ("version: 1 (patched)", ["0001-renamed"])
    assert (tree.source / "main.c").read_text() == SERVER


def test_a_compile_error_shows_the_compilers_words_and_leaves_the_build_in_use(tree: Tree) -> None:
    good = tree.build("--print-manifest").stdout
    in_use = (tree.cache / "current.json").read_text()
    tree.write("this is no program")
    failed = tree.build()
    assert failed.returncode == 1
    assert "main.c:1:1: error" in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: llama-server did not compile (exit code 1); the whole log is ")
    assert Path(last.rpartition(" ")[2]).exists()
    assert (tree.cache / "current.json").read_text() == in_use
    assert Path(good.strip()).exists()


def test_a_binary_that_does_not_start_is_not_installed(tree: Tree) -> None:
    tree.write("int main() { return 7; }")
    failed = tree.build()
    assert failed.returncode == 1
    assert "the new llama-server does not start" in failed.stderr
    assert not (tree.cache / "current.json").exists()


def test_an_interrupted_build_leaves_no_compiler_behind_and_can_go_on(tree: Tree) -> None:
    compiling, hang = tree.cache.parent / "compiling", tree.cache.parent / "hang"
    hang.touch()
    compiler = tree.cache.parent / "cc"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *main.c*) touch {compiling}; [ -e {hang} ] && exec sleep 60;; esac\nexec cc "$@"\n'
    )
    compiler.chmod(0o755)
    environment = tree.environment | {"CC": str(compiler)}
    process = subprocess.Popen(tree.command(), env=environment, stderr=subprocess.PIPE, text=True)
    while not compiling.exists():
        assert process.poll() is None, process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert psutil.wait_procs(children, 10)[1] == []
    hang.unlink()
    assert tree.build(CC=str(compiler)).returncode == 0


def test_a_damaged_binary_is_built_again(tree: Tree) -> None:
    built = Path(tree.build("--print-manifest").stdout.strip()).parent / "llama-server"
    whole = built.read_bytes()
    built.write_bytes(whole[:-1])
    assert tree.build("--reuse").returncode == 0
    assert len(built.read_bytes()) == len(whole)


def test_another_source_folder_is_no_obstacle_to_a_build_that_was_cut_short(tree: Tree, tmp_path: Path) -> None:
    whole, broken = SERVER, "no program"
    commit = tree.write(broken)
    assert tree.build().returncode == 1
    elsewhere = tmp_path / "elsewhere"
    git(tmp_path, "clone", "--quiet", str(tree.source), str(elsewhere))
    (elsewhere / "main.c").write_text(whole)
    tree.source = elsewhere
    assert tree.commit == commit
    done = tree.build()
    assert done.returncode == 0, done.stderr


def test_a_cache_that_cannot_be_used_is_named(tree: Tree) -> None:
    tree.cache.touch()
    failed = tree.build()
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert (
        last
        == f"error: cannot use the cache folder {tree.cache}: Not a directory; name another with RUNNER_CACHE_DIR"
    )


def test_a_wrong_source_folder_is_refused_even_when_nothing_is_left_to_build(tree: Tree, tmp_path: Path) -> None:
    assert tree.build().returncode == 0
    tree.source = tmp_path / "nowhere"
    failed = tree.build()
    assert failed.returncode == 1
    assert "no llama.cpp source in" in failed.stderr


def test_a_build_that_another_one_holds_up_says_so_and_then_takes_its_result(tree: Tree) -> None:
    key = json.loads(tree.build("--dry-run", "--json").stdout)["key"]
    lock = tree.cache / "compile" / f"{key}.lock"
    lock.parent.mkdir(parents=True)
    with filelock.FileLock(lock):
        process = subprocess.Popen(tree.command(), env=tree.environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        assert process.stderr.readline() == "another build of the same is running: waiting for it\n"
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def test_the_plan_alone(tree: Tree) -> None:
    text = tree.build("--dry-run")
    assert "GGML_NATIVE" in text.stdout
    plan = json.loads(tree.build("--dry-run", "--json").stdout)
    assert plan["commit"] == tree.commit
    assert all(option["reason"] for option in plan["options"])
    assert not tree.cache.exists()


def test_the_plan_of_a_backend_that_cannot_be_built_says_what_to_do(tree: Tree) -> None:
    failed = tree.build("--backend", "cuda", "--dry-run", CUDACXX="/no/such/nvcc")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: no CUDA toolkit found (looked for CUDACXX=/no/such/nvcc); install one")


def test_what_the_machine_can_build_is_told_in_words_and_as_json(tree: Tree) -> None:
    command = [sys.executable, "-m", "runner_builders", "toolchain"]
    environment = tree.environment | {"CUDACXX": "/no/such/nvcc"}

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        return done.stdout

    report = json.loads(ask("--json"))
    assert report["backends"]["cpu"] == {"can_build": True}
    assert report["found"]["cmake"]["version"]
    assert report["found"]["compilers"]["kind"] in {"gcc", "clang", "apple-clang"}
    no_toolkit = "no CUDA toolkit found (looked for CUDACXX=/no/such/nvcc)"
    assert not report["found"]["CUDA toolkit"]["present"]
    assert report["backends"]["cuda"]["why"].startswith(no_toolkit)
    lines = ask().splitlines()
    assert "cpu: can be built" in lines
    assert any(line.startswith(f"cuda: {no_toolkit}") for line in lines)
    assert lines[-1].startswith(f"chosen here: {report['auto']['backend']}, because ")


def test_json_events(tree: Tree) -> None:
    events = [json.loads(line) for line in tree.build("--json").stdout.splitlines()]
    assert events[-1]["event"] == "done"
    assert {"event": "step", "done": 2, "total": 2} in events


def test_a_prebuilt_folder_is_used_as_it_is(tree: Tree, tmp_path: Path) -> None:
    built = Path(tree.build("--print-manifest").stdout.strip()).parent
    prebuilt = tmp_path / "prebuilt" / "bin"
    prebuilt.parent.mkdir()
    built.rename(prebuilt)
    done = tree.build("--print-manifest", LLAMA_CPP_DIR=str(prebuilt.parent))
    manifest = json.loads(Path(done.stdout.strip()).read_text())
    assert (manifest["backend"], manifest["binary"]) == ("prebuilt", str(prebuilt / "llama-server"))


def test_an_unknown_backend_names_the_known_ones(tree: Tree) -> None:
    failed = tree.build("--backend", "abacus")
    known = "auto, cpu, cuda, metal, vulkan, hip"
    assert (failed.returncode, failed.stderr) == (1, f"error: unknown backend abacus; choose one of: {known}\n")
