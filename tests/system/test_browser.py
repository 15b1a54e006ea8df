"""The status page and the playground in a real Chromium, before a real service."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright
from tests.conftest import REPOSITORY
from tests.e2e.conftest import BUILD_TIMEOUT_S, Supervisor, engine_build, eventually, own_service, service

__all__ = ["engine_build", "own_service", "service"]

CHROMIUM = Path("/usr/bin/chromium")
ARTEFACTS = REPOSITORY / "build" / "browser"
SOON_MS = 60_000
"""A deadline for what takes a second on a machine that has nothing else to do."""

LOST = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of (401|503))")
"""What Chromium says of a server that went away, or wants a key."""

LONG = {"prompt": "The sea", "max_tokens": 1_000_000, "stream": True, "ignore_eos": True}
LOOKS = {"light": (1280, 900), "dark": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; .ci/run installs it"),
    pytest.mark.timeout(BUILD_TIMEOUT_S),
]


@dataclass
class Tab:
    """One tab, and what was noticed while it was open."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.set_default_timeout(SOON_MS)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self._requested(asked.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _requested(self, url: str) -> None:
        if not url.startswith(f"{self.origin}/"):
            self.elsewhere.append(url)

    def text(self, selector: str, wanted: str | re.Pattern[str]) -> None:
        """Wait until an element says this."""
        expect(self.page.locator(selector)).to_have_text(wanted)

    def use_key(self, key: str) -> None:
        if not self.page.locator("#key-dialog").is_visible():
            self.page.click("#key-button")
        self.page.fill("#key-field", key)
        self.page.press("#key-field", "Enter")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=SOON_MS)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def tab(browser: Browser, url: str, *, look: str = "light", may_lose: bool = False) -> Iterator[Tab]:
    """A tab on a page of the service; in the end nothing was complained of, and no request left the origin."""
    width, height = LOOKS[look]
    context = browser.new_context(
        color_scheme="dark" if look == "dark" else "light",
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
    )
    parts = httpx.URL(url)
    here = Tab(context.new_page(), f"{parts.scheme}://{parts.host}:{parts.port}")
    here.watch()
    here.page.goto(url)
    yield here
    complaints = [each for each in here.complaints if not (may_lose and LOST.match(each))]
    context.close()
    assert complaints == []
    assert here.elsewhere == []


@contextmanager
def long_stream(
    url: str, key: str | None = None, *, name: str | None = None
) -> Iterator[tuple[list[str], threading.Event]]:
    """A client whose answer does not end by itself: what it got, and whether it has ended."""
    got: list[str] = []
    ended = threading.Event()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if name:
        headers["x-request-id"] = name
    client = httpx.Client(timeout=SOON_MS / 1000, trust_env=False)

    def read() -> None:
        try:
            with client.stream("POST", f"{url}/v1/completions", json=LONG, headers=headers) as response:
                for line in response.iter_lines():
                    got[:] = [*got[-3:], line]
        except httpx.TransportError:
            got.append("cut off")
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        eventually(lambda: got, bool, timeout_s=SOON_MS / 1000)
        yield got, ended
    finally:
        client.close()
        thread.join(SOON_MS / 1000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_kill_of_the_engine_is_seen_live(chromium: Browser, own_service: Supervisor) -> None:
    with tab(chromium, f"{own_service.url}/dashboard") as here:
        here.text("#engine-state", "Ready")
        here.text("#link-text", "Live")
        here.page.evaluate(
            """() => { window.seen = []; new MutationObserver(() => seen.push(document.getElementById("engine-state")
            .textContent)).observe(document.getElementById("engine-state"), {childList: true, characterData: true,
            subtree: true}); }"""
        )
        os.kill(own_service.engine_pid, signal.SIGKILL)
        here.text("#restarts", "1")
        here.text("#engine-state", "Ready")
        seen = here.page.evaluate("() => window.seen")
        assert "Restarting after a crash" in seen
        assert seen[-1] == "Ready"
        expect(here.page.locator("#happenings")).to_contain_text("signal 9 (crash); serving again after")
        expect(here.page.locator("#log")).to_contain_text("ready -> backoff")
        here.text("#announcer", "Engine: Ready")


def test_the_page_finds_a_supervisor_that_was_restarted(
    chromium: Browser, engine_build: Path, short_dir: Path
) -> None:
    assert engine_build.exists()
    port = ("--port", str(free_port()))
    with Supervisor(short_dir / "s", *port) as first:
        first.wait_ready()
        with tab(chromium, f"{first.url}/dashboard", may_lose=True) as here:
            here.text("#engine-state", "Ready")
            first.process.terminate()
            here.text("#link-text", "Reconnecting")
            first.process.wait(60)
            with Supervisor(short_dir / "s", *port) as second:
                second.wait_ready()
                here.text("#link-text", "Live")
                here.text("#engine-state", "Ready")
                here.text("#notice", re.compile("The supervisor was restarted at .*found it again"))
                expect(here.page.locator("#log")).to_contain_text("the supervisor was restarted")


def test_a_supervisor_that_hangs_is_noticed_and_so_is_its_return(chromium: Browser, own_service: Supervisor) -> None:
    with tab(chromium, f"{own_service.url}/dashboard", may_lose=True) as here:
        here.text("#engine-state", "Ready")
        own_service.process.send_signal(signal.SIGSTOP)
        here.text("#link-text", "Reconnecting")
        own_service.process.send_signal(signal.SIGCONT)
        here.text("#link-text", "Live")
        here.text("#engine-state", "Ready")
        expect(here.page.locator("#notice")).to_be_hidden()


def test_the_log_is_filtered_and_paused(chromium: Browser, own_service: Supervisor) -> None:
    with tab(chromium, f"{own_service.url}/dashboard") as here:
        lines = here.page.locator("#log .line")
        expect(here.page.locator("#log")).to_contain_text("-> ready")
        here.page.fill("#log-text", "-> READY")
        expect(lines).to_have_count(1)
        here.page.fill("#log-text", "no line says this")
        expect(lines).to_have_count(0)
        expect(here.page.locator("#log-foot")).to_contain_text("No line matches the filter")
        here.page.fill("#log-text", "")
        here.page.select_option("#log-level", "3")
        expect(lines.filter(has_text="-> ready")).to_have_count(0)
        here.page.select_option("#log-level", "1")
        here.page.click("#log-pause")
        held = lines.count()
        httpx.post(f"{own_service.url}/v1/completions", json={"prompt": "The sea", "max_tokens": 4}, timeout=60)
        expect(here.page.locator("#log-foot")).to_contain_text(re.compile(r"Paused; [1-9]\d* new line"))
        assert lines.count() == held
        here.page.click("#log-pause")
        expect(lines).not_to_have_count(held)


def test_a_chat_streams_and_says_how_fast(chromium: Browser, service: Supervisor) -> None:
    with tab(chromium, f"{service.url}/") as here:
        assert here.page.url == f"{service.url}/playground"
        here.text("#link-text", "Ready")
        here.text("#welcome-model", "demo")
        here.page.fill("#message", "Hello!")
        here.page.press("#message", "Enter")
        expect(here.page.locator(".turn.theirs .said")).to_contain_text("tiny demo model")
        expect(here.page.locator(".stats")).to_have_text(re.compile(r"^\d+ tokens[\d.,]+ tokens/sfirst after .+s$"))
        expect(here.page.locator("#announcer")).to_contain_text("Answer: ")
        expect(here.page.locator("#message")).to_be_focused()


def test_the_playground_takes_a_key_and_says_what_is_wrong_with_one(
    chromium: Browser, own_service: Supervisor
) -> None:
    user = own_service.create_key("someone")
    with tab(chromium, f"{own_service.url}/playground", may_lose=True) as here:
        expect(here.page.locator("#key-dialog")).to_be_visible()
        here.use_key("rsk_wrong")
        expect(here.page.locator("#key-why")).to_contain_text("missing or wrong")
        here.use_key(user)
        here.text("#welcome-model", "demo")
        here.page.get_by_role("button", name="Hello!").click()
        expect(here.page.locator(".turn.theirs .said")).to_contain_text("tiny demo model")


def test_an_answer_stops_when_it_is_told_to(chromium: Browser, service: Supervisor) -> None:
    def endless(route: Route) -> None:
        route.continue_(post_data=json.dumps({**route.request.post_data_json, "ignore_eos": True}))

    with tab(chromium, f"{service.url}/playground") as here:
        here.page.route("**/v1/chat/completions", endless)
        here.page.fill("#max-tokens", "100000")
        here.page.get_by_role("button", name="Hello!").click()
        expect(here.page.locator(".turn.theirs .said")).to_contain_text("tiny demo model")
        here.page.get_by_role("button", name="Stop").click()
        expect(here.page.locator(".stats")).to_contain_text("stopped")
        eventually(lambda: service.status()["in_flight"], lambda count: count == 0, timeout_s=30)


def test_a_running_request_is_shown_and_cancelled(chromium: Browser, own_service: Supervisor) -> None:
    admin = own_service.create_key("operator", "--scope", "admin")
    user = own_service.create_key("someone")
    with tab(chromium, f"{own_service.url}/dashboard", may_lose=True) as here:
        here.use_key(admin)
        here.text("#requests-none", "No requests at the moment.")
        with long_stream(own_service.url, user) as (got, ended):
            row = here.page.locator("#requests-body tr")
            expect(row).to_contain_text(["someone"])
            expect(row).to_contain_text("/v1/completions")
            expect(row).to_contain_text("streaming")
            expect(row.locator("td").nth(6)).to_have_text(re.compile(r"^[\d,.]+$"))
            here.text("#slots-busy", "1")
            row.get_by_role("button", name="Cancel").click()
            assert ended.wait(SOON_MS / 1000)
            assert any('"code":"cancelled"' in line for line in got), got
        expect(here.page.locator("#requests-none")).to_be_visible()
        here.text("#slots-busy", "0")
        with own_service.engine() as engine:
            eventually(lambda: busy_slots(engine), lambda busy: busy == 0, timeout_s=30, every_s=0.5)
        eventually(own_service.layout.audit_log.read_text, said('"outcome":"cancelled"'), timeout_s=10)


def test_requests_of_the_same_id_are_told_apart_and_the_focus_stays(
    chromium: Browser, own_service: Supervisor
) -> None:
    admin = own_service.create_key("operator", "--scope", "admin")
    with tab(chromium, f"{own_service.url}/dashboard", may_lose=True) as here:
        here.use_key(admin)
        rows = here.page.locator("#requests-body tr")
        with long_stream(own_service.url, admin, name="same") as (_, ended):
            expect(rows).to_have_count(1)
            with long_stream(own_service.url, admin, name="other"), long_stream(own_service.url, admin, name="same"):
                expect(rows).to_have_count(3)
                expect(here.page.locator(".phase", has_text="streaming")).to_have_count(3)
                rows.nth(1).get_by_role("button").focus()
                httpx.post(
                    f"{own_service.url}/admin/requests/same/cancel", headers={"authorization": f"Bearer {admin}"}
                )
                assert ended.wait(SOON_MS / 1000)
                expect(rows).to_have_count(1)
                expect(rows.get_by_role("button", name="Cancel request other")).to_be_focused()


def busy_slots(engine: httpx.Client) -> int:
    return sum(slot["is_processing"] for slot in engine.get("/slots").json())


def said(part: str) -> Callable[[str], bool]:
    return lambda text: part in text


def test_keys_decide_who_sees_and_who_acts_and_a_restart_is_confirmed(
    chromium: Browser, own_service: Supervisor
) -> None:
    admin = own_service.create_key("operator", "--scope", "admin")
    metrics = own_service.create_key("watcher", "--scope", "metrics")
    inference = own_service.create_key("talker")
    before = own_service.engine_pid
    with tab(chromium, f"{own_service.url}/dashboard", may_lose=True) as here:
        expect(here.page.locator("#key-dialog")).to_be_visible()
        here.use_key("rsk_wrong")
        expect(here.page.locator("#key-why")).to_contain_text("missing or wrong")
        here.use_key(inference)
        expect(here.page.locator("#key-why")).to_contain_text("scope 'metrics'")
        here.complaints = [each for each in here.complaints if "status of 403" not in each]
        here.use_key(metrics)
        here.text("#engine-state", "Ready")
        expect(here.page.locator("#restart")).to_be_disabled()
        here.use_key(admin)
        expect(here.page.locator("#restart")).to_be_enabled()
        here.page.click("#restart")
        expect(here.page.locator("#confirm")).to_be_visible()
        here.page.keyboard.press("Escape")
        expect(here.page.locator("#confirm")).to_be_hidden()
        assert own_service.engine_pid == before
        here.page.click("#restart")
        here.page.click("#confirm-yes")
        expect(here.page.locator("#happenings")).to_contain_text("done: a new engine serves")
        here.text("#engine-state", "Ready")
        assert own_service.engine_pid != before


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("place", ["dashboard", "playground"])
def test_a_page_has_no_serious_violation_and_its_picture_is_kept(
    chromium: Browser, service: Supervisor, place: str, look: str
) -> None:
    with tab(chromium, f"{service.url}/{place}", look=look) as here, long_stream(service.url):
        here.text("#link-text", "Live" if place == "dashboard" else "Ready")
        if place == "dashboard":
            expect(here.page.locator("#requests-body tr")).to_have_count(1)
            here.page.wait_for_function("() => /\\d/.test(document.querySelector('#chart-tokens .now').textContent)")
        else:
            here.page.get_by_role("button", name="Hello!").click()
            expect(here.page.locator(".stats")).to_contain_text("tokens/s")
        picture = ARTEFACTS / f"{place}-{look}.png"
        here.page.screenshot(path=picture, full_page=True)
        print(f"picture: {picture}")
        wide = here.page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
        assert not wide, "the page is wider than the screen"
        assert violations(here.page) == []


def violations(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found: dict[str, Any] = page.evaluate("() => axe.run()")
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
    ]


def test_the_keyboard_alone_is_enough(chromium: Browser, service: Supervisor) -> None:
    with tab(chromium, f"{service.url}/dashboard") as here:
        here.text("#link-text", "Live")
        here.page.keyboard.press("Tab")
        expect(here.page.get_by_role("link", name="Skip")).to_be_focused()
        here.page.keyboard.press("Enter")
        expect(here.page.locator("#main")).to_be_focused()
        here.page.locator("#theme").focus()
        here.page.keyboard.press("Enter")
        expect(here.page.locator("html")).to_have_attribute("data-theme", "dark")
        here.page.locator("#key-button").focus()
        here.page.keyboard.press("Enter")
        expect(here.page.locator("#key-field")).to_be_focused()
        here.page.keyboard.press("Escape")
        expect(here.page.locator("#key-button")).to_be_focused()
