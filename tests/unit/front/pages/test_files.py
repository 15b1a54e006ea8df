"""The pages' files: complete, their own, and nothing from elsewhere."""

from __future__ import annotations

import re

import pytest

from runner_supervisor.front.pages.files import HERE, POLICY, read_files

FILES = read_files()
PAGES = ("dashboard.html", "playground.html")
OURS = [path for path in (HERE / "static").iterdir() if path.suffix in {".css", ".html", ".js"}]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_files_that_there_are(page: str) -> None:
    text = FILES[page].body.decode()
    named = re.findall(r'(?:src|href)="/dashboard/([^"]+)"', text)
    assert named
    assert set(named) <= FILES.keys()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_nothing_inline(page: str) -> None:
    text = FILES[page].body.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", text)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_of_ours_names_another_place(path: object) -> None:
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", FILES[path.name].body.decode())  # type: ignore[attr-defined]


def test_ids_that_scripts_look_up_are_on_their_page() -> None:
    for page, scripts in {
        "dashboard.html": ("dashboard.js", "charts.js", "logview.js", "common.js"),
        "playground.html": ("playground.js", "common.js"),
    }.items():
        there = set(re.findall(r'\bid="([^"]+)"', FILES[page].body.decode()))
        for script in scripts:
            assert set(re.findall(r'\$\("([^"]+)"\)', FILES[script].body.decode())) <= there


def test_an_etag_says_what_is_in_a_file() -> None:
    file = FILES["base.css"]
    etag = file.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
    assert file.matches(etag)
    assert file.matches(f'"other", W/{etag}')
    assert not file.matches('"other"')
    assert len({each.headers["etag"] for each in FILES.values()}) == len(FILES)


def test_the_policy_lets_in_nothing_inline_and_nothing_from_elsewhere() -> None:
    assert "unsafe" not in POLICY
    assert set(re.findall(r"'[a-z]+'", POLICY)) == {"'none'", "'self'", "'script'"}
    assert not re.search(r"https?:|\*|data:", POLICY)


def test_what_is_not_ours_comes_with_its_licence() -> None:
    vendored = HERE / "vendor" / "uplot"
    assert "MIT" in (vendored / "LICENSE").read_text()
    assert re.search(r"uPlot \d+\.\d+\.\d+", (vendored / "README.md").read_text())
