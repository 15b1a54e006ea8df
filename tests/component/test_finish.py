"""What happens to a compiled llama-server before it is installed, with a codesign that writes down its calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.builders.machines import MAC, PIN
from tests.unit.builders.test_toolchain import program

from runner_builders.backends import metal
from runner_builders.errors import BuilderError
from runner_builders.finish import finish
from runner_builders.plan import BuildPlan, Wishes, make_plan

CODESIGN = '#!/bin/sh\necho "$*" >> {calls}\ncase "$*" in *{refused}*) echo "no identity" >&2; exit 1;; esac\n'


class Mac:
    """A folder in which CMake left what a plan for Metal makes, and a Mac's codesign."""

    def __init__(self, folder: Path, *, refused: str = "nothing") -> None:
        self.out = folder / "bin"
        self.out.mkdir()
        for name in ("llama-server", "libllama.dylib", "libggml-metal.dylib", "llama-other"):
            (self.out / name).touch()
        self.calls = folder / "calls"
        codesign = program(folder / "codesign", CODESIGN.format(calls=self.calls, refused=refused))
        apple = replace(MAC, apple=replace(MAC.apple, codesign=codesign))
        self.plan: BuildPlan = make_plan(
            name="metal", backend=metal, pin=PIN, toolchain=apple, wishes=Wishes(portable=True)
        )


def test_on_a_mac_libraries_are_signed_before_the_program_that_loads_them(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    files = finish(mac.plan, mac.out)
    assert [file.name for file in files] == ["llama-server", "libggml-metal.dylib", "libllama.dylib"]
    assert mac.calls.read_text().splitlines() == [
        line
        for name in ("libggml-metal.dylib", "libllama.dylib", "llama-server")
        for line in (
            f"--force --sign - --timestamp=none {mac.out / name}",
            f"--verify --strict {mac.out / name}",
        )
    ]


def test_a_file_that_cannot_be_signed_ends_the_build(tmp_path: Path) -> None:
    mac = Mac(tmp_path, refused="libllama")
    with pytest.raises(BuilderError, match=r"codesign refuses libllama.dylib: no identity; install Apple's tools"):
        finish(mac.plan, mac.out)
    assert "llama-server" not in mac.calls.read_text()


def test_elsewhere_nothing_is_signed(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    finish(replace(mac.plan, codesign=None), mac.out)
    assert not mac.calls.exists()


def test_libraries_that_the_binary_needs_are_put_beside_it(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    library = tmp_path / "lib" / "libcublas.so.13"
    library.parent.mkdir()
    library.write_text("cublas")
    plan = replace(mac.plan, codesign=None, bundled=(str(library),), outputs=("llama-server", library.name))
    assert [file.name for file in finish(plan, mac.out)] == ["llama-server", "libcublas.so.13"]
    assert (mac.out / "libcublas.so.13").read_text() == "cublas"


def test_a_library_that_is_gone_is_named(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    plan = replace(mac.plan, bundled=("/no/such/libcublas.so.*",))
    with pytest.raises(BuilderError, match=r"no /no/such/libcublas.so.\* to put beside llama-server"):
        finish(plan, mac.out)


def test_an_output_that_was_not_made_is_named(tmp_path: Path) -> None:
    mac = Mac(tmp_path)
    (mac.out / "llama-server").unlink()
    with pytest.raises(BuilderError, match="the build made no llama-server in"):
        finish(mac.plan, mac.out)
