"""The page in a real browser: nothing is fetched, nothing complains, it fits a phone, the pointer reads the curve."""

from typing import TYPE_CHECKING

import pytest
from synthetic_run import Writer

from k2.report.page import build_page
from k2.run.ledger import read_facts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


@pytest.fixture
def address(told: Writer) -> str:
    return build_page(told.recipe, told.layout, read_facts(told.layout.ledger), told.clock).resolve().as_uri()


def watched(page: "Page") -> list[str]:
    """Whatever the page complains about or fetches, as it happens."""
    seen: list[str] = []
    page.on("console", lambda message: seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("request", lambda request: seen.append(f"request: {request.url}"))
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_stands_alone(browser: "Browser", address: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    seen = watched(page)
    page.goto(address)
    assert seen == [f"request: {address}"]
    for section in ("standing", "curves", "incidents", "scores", "mix", "checkpoints", "time", "energy", "record"):
        assert page.locator(f"#{section} h2").is_visible()
    assert page.locator("#curves .wide svg").count() == 3 and page.locator("#curves .wide svg").first.is_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper[4:-1].split(",")) > 600) == (scheme == "light")
    context.close()


def test_the_pointer_reads_the_curve(browser: "Browser", address: str) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    seen = watched(page)
    page.goto(address)
    chart, readout = page.locator("#curves .wide svg").first, page.locator(".readout")
    before = readout.inner_text()
    chart.hover(position={"x": 200, "y": 100})
    after = readout.inner_text()
    assert "stage2 step 80" in before and "stage1 step" in after and "loss" in after
    assert chart.locator(".crosshair").get_attribute("x1") is not None
    assert [line for line in seen if not line.startswith("request: file:")] == []
    page.close()


def test_it_fits_a_phone(browser: "Browser", address: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#curves .narrow svg").first.is_visible() and not page.locator("#curves .wide svg").first.is_visible()
    page.close()


def test_the_record_opens(browser: "Browser", address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.locator("#record summary").first.click()
    assert page.locator(".events li").count() == 13 and page.locator(".events li").first.is_visible()
    page.close()
