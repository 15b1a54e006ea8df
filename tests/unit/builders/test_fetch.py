"""An sdist's tree, unpacked."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from runner_builders.fetch import unpack


def test_an_sdist_is_unpacked_by_pythons_without_extraction_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "CMakeLists.txt").write_text("project(x)")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "CMakeLists.txt", arcname="x-1/vendor/llama.cpp/CMakeLists.txt")
    extractall = tarfile.TarFile.extractall

    def as_in_python_3_11_2(tar: tarfile.TarFile, path: Path, members: list[tarfile.TarInfo] | None = None) -> None:
        extractall(tar, path, members)

    monkeypatch.delattr(tarfile, "data_filter")
    monkeypatch.setattr(tarfile.TarFile, "extractall", as_in_python_3_11_2)
    unpack(tmp_path / "x.tar.gz", "vendor/llama.cpp", tmp_path / "tree")
    assert (tmp_path / "tree" / "CMakeLists.txt").read_text() == "project(x)"
