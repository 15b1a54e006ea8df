"""cuBLAS from a package index, by this machine's pip; the index is a folder of files."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import pytest

from runner_builders.backends.cublas import RELEASES
from runner_builders.errors import BuilderError
from runner_builders.plan import Wheel
from runner_builders.wheels import fetch

REQUIREMENT = RELEASES[13].requirement
NAME, _, VERSION = REQUIREMENT.partition("==")
INSIDE = RELEASES[13].folder


class Index:
    """A package index with one wheel."""

    def __init__(self, folder: Path) -> None:
        self.page = folder / NAME / "index.html"
        self.page.parent.mkdir(parents=True)
        self.file = self.page.parent / f"{NAME.replace('-', '_')}-{VERSION}-py3-none-any.whl"
        info = f"{NAME.replace('-', '_')}-{VERSION}.dist-info"
        with zipfile.ZipFile(self.file, "w") as wheel:
            wheel.writestr(f"{INSIDE}/include/cublas_v2.h", "#pragma once\n")
            for library in ("cublas", "cublasLt"):
                wheel.writestr(f"{INSIDE}/lib/lib{library}.so.13", library)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        self.says(hashlib.sha256(self.file.read_bytes()).hexdigest())

    def says(self, digest: str) -> None:
        self.page.write_text(f'<a href="{self.file.name}#sha256={digest}">{self.file.name}</a>')


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    folder = tmp_path / "index"
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": folder.as_uri(),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return Index(folder)


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    return Wheel(requirement=REQUIREMENT, folder=tmp_path / "cache" / "cublas")


@pytest.mark.usefixtures("index")
def test_a_wheel_is_unpacked_with_the_links_that_a_linker_asks_for(wheel: Wheel) -> None:
    said: list[str] = []
    fetch(wheel, say=said.append)
    assert said == [f"fetching {REQUIREMENT} from the package index"]
    inside = wheel.folder / INSIDE
    assert (inside / "include" / "cublas_v2.h").exists()
    assert {path.name: path.read_text() for path in (inside / "lib").iterdir()} == {
        "libcublas.so": "cublas",
        "libcublas.so.13": "cublas",
        "libcublasLt.so": "cublasLt",
        "libcublasLt.so.13": "cublasLt",
    }
    assert sorted(path.name for path in wheel.folder.parent.iterdir()) == ["cublas", "cublas.lock"]


def test_a_wheel_is_fetched_once(wheel: Wheel, index: Index) -> None:
    fetch(wheel, say=lambda _: None)
    index.file.unlink()
    fetch(wheel, say=pytest.fail)


def test_a_wheel_that_is_not_what_the_index_says_is_refused(wheel: Wheel, index: Index) -> None:
    index.says("0" * 64)
    with pytest.raises(BuilderError, match=re.escape(f"cannot fetch {REQUIREMENT}: pip said «")):
        fetch(wheel, say=lambda _: None)
    assert [path.name for path in wheel.folder.parent.iterdir()] == ["cublas.lock"]


def test_a_wheel_that_is_not_there_says_what_else_can_be_done(wheel: Wheel, index: Index) -> None:
    index.page.write_text("")
    with pytest.raises(BuilderError, match="check the network, or install the toolkit's cuBLAS and use --cuda-libs"):
        fetch(wheel, say=lambda _: None)


def test_a_folder_that_takes_no_files_is_named(wheel: Wheel, index: Index) -> None:
    digest = hashlib.sha256(b"no zip")
    index.file.write_bytes(b"no zip")
    index.says(digest.hexdigest())
    with pytest.raises(BuilderError, match=re.escape(REQUIREMENT)):
        fetch(wheel, say=lambda _: None)
    assert not wheel.folder.exists()
