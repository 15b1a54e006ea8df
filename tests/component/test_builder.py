"""The builder's command with real cmake, ninja and compiler, on a llama.cpp of one file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from tests.component.build_rig import CMAKE, SERVER, TIMEOUT_S, Tree
from tests.unit.builders.test_source import git

from runner_builders.manifest import sha256_of


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_build_is_installed_with_its_manifest_and_kept(tree: Tree) -> None:
    first = tree.build("--print-manifest")
    assert first.returncode == 0, first.stderr
    assert "compiling llama-server: 2 of 2 (100 %), 0 s left" in first.stderr
    path = Path(first.stdout.strip())
    manifest = json.loads(path.read_text())
    assert (manifest["schema"], manifest["commit"]) == (3, tree.commit)
    verified = {"version": "version: 1 (tiny)", "devices": [], "goldens": 1, "notices": []}
    assert manifest["verified"] == verified
    assert manifest["files"] == {"llama-server": sha256_of(path.parent / "llama-server")}
    assert manifest["options"]["GGML_NATIVE"] == "ON"
    assert os.access(path.parent / manifest["binary"], os.X_OK)
    assert sorted(file.name for file in path.parent.iterdir()) == ["llama-server", "manifest.json", "sbom.cdx.json"]
    assert not list((tree.cache / "compile").glob("*-*"))

    second = tree.build("--print-manifest")
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert tree.serves(path.parent)


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
    (tree.source / "part.c").write_text('const char *part(void) { return "version: of parts"; }\n')
    tree.write(
        SERVER.replace("int main", "const char *part(void);\nint main").replace("puts(VERSION)", "puts(part())")
    )
    built = tree.built("--portable")
    assert set(json.loads((built / "manifest.json").read_text())["files"]) == {"llama-server", "libpart.so"}
    assert {path.name for path in built.iterdir()} >= {"llama-server", "libpart.so"}
    assert not [path for path in built.iterdir() if path.is_symlink()]
    moved = built.rename(tmp_path / "moved")
    command = [moved / "llama-server", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert said.stdout == "version: of parts\n"


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
    first = SERVER.splitlines()[0]
    diff = f"--- a/main.c\n+++ b/main.c\n@@ -1,1 +1,1 @@\n-{first}\n+{first.replace('tiny', 'patched')}\n"
    (tree.patches / "0001-renamed.patch").write_text(diff)

    done = tree.build("--reuse", "--print-manifest")
    assert done.returncode == 0, done.stderr
    patched = json.loads(Path(done.stdout.strip()).read_text())
    assert (plain["verified"]["version"], plain["patches"]) == ("version: 1 (tiny)", {})
    assert patched["verified"]["version"] == "version: 1 (patched)"
    assert list(patched["patches"]) == ["0001-renamed"]
    assert (tree.source / "main.c").read_text() == SERVER


def test_a_compile_error_shows_the_compilers_words_and_leaves_the_build_in_use(tree: Tree) -> None:
    good = tree.built()
    tree.write("this is no program")
    failed = tree.build()
    assert failed.returncode == 1
    assert "main.c:1:1: error" in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: llama-server did not compile (exit code 1); the whole log is ")
    assert Path(last.rpartition(" ")[2]).exists()
    assert tree.serves(good)


def test_the_words_of_the_compiler_that_failed_are_shown_and_not_those_of_others_at_work(tree: Tree) -> None:
    (tree.source / "CMakeLists.txt").write_text(CMAKE.replace("main.c", "main.c slow.c"))
    (tree.source / "slow.c").write_text("int slow;\n")
    tree.write("this is no program")
    failed = tree.folder / "failed"
    compiler = tree.folder / "cc"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *main.c*) cc "$@"; code=$?; touch {failed}; exit $code;;\n'
        f"*slow.c*) until [ -e {failed} ]; do sleep 0.05; done; sleep 0.2; seq 100 1 140;; esac\n"
        'exec cc "$@"\n'
    )
    compiler.chmod(0o755)
    said = tree.build("--jobs", "2", CC=str(compiler)).stderr
    assert "main.c:1:1: error" in said
    assert "\n120\n" not in said


NO_DEVICES = 'puts("Available devices:"); puts(DEVICES); return 0;'


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("int main() { return 7; }", "error: the new llama-server does not start"),
        (SERVER.replace(NO_DEVICES, "return 1;"), "error: the new llama-server cannot list its devices"),
        (
            SERVER.replace('ANSWER "fine"', 'ANSWER "fin"'),
            "error: the new llama-server computes wrong: to «How are you?» it said «fin», not «fine»",
        ),
        (
            SERVER.replace('"--answer", ANSWER', '"--exit-code", "5"'),
            "error: the new llama-server ended with code 5 when it should serve the demo model («0.00.000.001 E srv",
        ),
        (
            SERVER.replace('"--answer", ANSWER', '"--load-lines", "1"'),
            "error: the new llama-server did not answer a golden prompt (HTTPStatusError",
        ),
    ],
    ids=["does not start", "no devices", "computes wrong", "ends", "gives an error"],
)
def test_a_binary_that_does_not_work_is_not_installed(tree: Tree, program: str, said: str) -> None:
    good = tree.built()
    tree.write(program)
    failed = tree.build()
    assert failed.returncode == 1
    assert said in failed.stderr
    assert tree.serves(good)
    assert len(list((tree.cache / "builds").iterdir())) == 1


def test_without_golden_prompts_nothing_is_built(tree: Tree) -> None:
    command = tree.command("build", "--source", str(tree.source))
    failed = tree.run(command)
    assert failed.returncode == 1
    assert "error: nothing is installed that has not answered golden prompts; name a folder of them" in failed.stderr
    assert not tree.cache.exists()


def test_golden_prompts_for_another_model_are_refused(tree: Tree) -> None:
    (tree.goldens / "demo.gguf").write_bytes(b"GGUF of others")
    failed = tree.build()
    assert failed.returncode == 1
    assert "demo.gguf has sha256 " in failed.stderr
    (tree.goldens / "goldens.json").write_text("[]")
    assert "error: cannot read the golden prompts in" in tree.build().stderr


def test_another_source_folder_is_no_obstacle_to_a_build_that_was_cut_short(tree: Tree, tmp_path: Path) -> None:
    compiler = tree.folder / "cc"
    compiler.write_text('#!/bin/sh\ncase "$*" in *main.c*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    assert tree.build(CC=str(compiler)).returncode == 1
    elsewhere = tmp_path / "elsewhere"
    git(tmp_path, "clone", "--quiet", str(tree.source), str(elsewhere))
    tree.source = elsewhere
    compiler.write_text('#!/bin/sh\nexec cc "$@"\n')
    assert tree.built(CC=str(compiler))


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
        process = subprocess.Popen(tree.build_command(), env=tree.environment, stderr=subprocess.PIPE, text=True)
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
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["source", "configure", "compile", "verify", "install"]
    assert {"event": "step", "done": 2, "total": 2, "left_s": 0.0} in events


def test_an_unknown_backend_names_the_known_ones(tree: Tree) -> None:
    failed = tree.build("--backend", "abacus")
    known = "auto, cpu, cuda, metal, vulkan, hip"
    assert (failed.returncode, failed.stderr) == (1, f"error: unknown backend abacus; choose one of: {known}\n")
