"""What `bench` understands and prints."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import typer
from matplotlib import image

from runner_supervisor.bench_cli import Report, base_of, steps_of, table
from runner_supervisor.errors import RunnerError
from runner_supervisor.loadtest import picture
from runner_supervisor.loadtest.figures import Answer, Failure, Step, summary

STEP = summary([Answer(0.1, 1.1, 60, 0, 11), Failure("timeout", "late")], concurrency=4, elapsed_s=2.0)


def report(*steps: Step) -> Report:
    return Report("http://here", 64, 11, model="demo", steps=list(steps))


def test_steps_are_numbers() -> None:
    assert steps_of("1, 2,16") == (1, 2, 16)


@pytest.mark.parametrize("text", ["", "1,", "a", "0", "-1", "1.5", "9999999", ",".join("1" * 17)])
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--concurrency takes"):
        steps_of(text)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_may_have_the_v1_that_clients_are_given(url: str) -> None:
    assert base_of(url) == "http://h:1"


@pytest.mark.parametrize("url", ["", "here", "localhost:8080", "ftp://h", "http://", "http://h:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(typer.BadParameter, match="--url takes an address"):
        base_of(url)


def test_the_table_has_a_row_for_each_step_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    table(report(STEP, summary([Failure("timeout", "late")], concurrency=8, elapsed_s=1.0)))
    heads, four, eight, *told = capsys.readouterr().out.splitlines()
    assert heads.split()[:5] == ["streams", "answers", "errors", "requests/s", "tokens/s"]
    assert four.split() == ["4", "1", "1", "0.50", "5.5", "10.0", "100", "ms", "100", "ms", "100", "ms"]
    assert eight.split() == ["8", "0", "1", "0.00", "0.0", "-", "-", "-", "-"]
    assert told == [
        "4 at once: 1 failed: timeout",
        "8 at once: 1 failed: timeout",
        "demo at http://here; prompts of 60 tokens (0 of them cached), answers of 11",
    ]


def test_short_times_are_told_finely(capsys: pytest.CaptureFixture[str]) -> None:
    table(report(replace(STEP, ttft_p50_ms=5.432, per_token_p50_ms=0.275)))
    assert capsys.readouterr().out.splitlines()[1].split()[-6:] == ["5.43", "ms", "100", "ms", "0.28", "ms"]


def test_a_picture_is_drawn_also_where_a_step_has_no_figures() -> None:
    drawn = picture.png(
        [STEP, replace(STEP, concurrency=8, ttft_p50_ms=None, per_token_p50_ms=None)], title="no $formula_"
    )
    height, width, _ = image.imread(io.BytesIO(drawn)).shape
    assert (width, height) == (990, 682)


def test_who_has_no_matplotlib_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(RunnerError, match=r"pip install 'runner-supervisor\[bench\]'"):
        picture.require_matplotlib()
