"""The galleries in a real browser, from `file://`: two checkpoints side by side, read by keyboard, nothing escapes."""

import json
from typing import TYPE_CHECKING

import pytest
from answered_run import ROWS, WHITE_ROW, answer_everything
from synthetic_run import Writer

from k2.report.gallery.site import add_to_gallery

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture
def gallery(writer: Writer) -> str:
    """The address of a gallery of four checkpoints."""
    for name in answer_everything(writer, 4):
        page = add_to_gallery(writer.recipe, writer.layout, name)
    return page.resolve().as_uri()


def test_answers_lie_by_metric_shots_and_checkpoint(writer: Writer) -> None:
    for name in answer_everything(writer, 2):
        add_to_gallery(writer.recipe, writer.layout, name)
    files = {str(path.relative_to(writer.layout.gallery)) for path in writer.layout.gallery.rglob("*.js")}
    assert "acc_norm/10/ckpt_001/choice.js" in files
    assert "pct_stereotype/0/ckpt_002/stereotypes.js" in files
    assert "prompts/0/ckpt_002/prompt_gallery.js" in files
    index = (writer.layout.gallery / "index.js").read_text()
    told = json.loads(index.removeprefix('gallery.take("index",').removesuffix(")\n"))
    assert [point["name"] for point in told["checkpoints"]] == ["ckpt_001", "ckpt_002"]
    assert [(task["task"], task["higher_is_better"]) for task in told["tasks"]][-2:] == [("stereotypes", False), ("prompt_gallery", True)]
    assert set(told["tasks"][0]["scores"]) == {"ckpt_001", "ckpt_002"}


def test_a_run_without_scores_has_an_empty_gallery(writer: Writer) -> None:
    page = add_to_gallery(writer.recipe, writer.layout, "ckpt_001")
    assert page.is_file()
    assert '"tasks":[]' in (writer.layout.gallery / "index.js").read_text()


def opened(browser: "Browser", address: str) -> "tuple[Page, list[str]]":
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else seen.append(request.url))
    page.goto(address)
    page.locator("#rows button").first.wait_for()
    return page, seen


@pytest.mark.slow
def test_two_checkpoints_side_by_side_by_keyboard(browser: "Browser", gallery: str) -> None:
    from playwright.sync_api import expect

    page, seen = opened(browser, gallery)
    title, answers = page.locator("#row h2"), page.locator("#row .answer h3")
    expect(answers.first).to_contain_text("ckpt_001")
    expect(answers.last).to_contain_text("ckpt_004")
    expect(page.locator("#count")).to_have_text(f"{ROWS} rows, 1 to 100 shown")
    page.keyboard.press("j")
    expect(title).to_have_text("choice, row 1")
    page.keyboard.press("]")
    expect(answers.first).to_contain_text("ckpt_002")
    page.keyboard.press("c")
    expect(page.locator("#show")).to_have_value("changed")
    marks = page.locator("#rows button").evaluate_all("bs => bs.map(b => [...b.querySelectorAll('.mark')].map(m => m.textContent))")
    assert marks
    assert all(left != right for left, right in marks)
    linked = page.url
    page.keyboard.press("t")
    expect(title).to_contain_text("writing")
    page.goto(linked)
    expect(page.locator("#show")).to_have_value("changed")
    expect(answers.first).to_contain_text("ckpt_002")
    assert seen == []
    page.close()


@pytest.mark.slow
def test_only_what_is_looked_at_is_loaded(browser: "Browser", gallery: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(gallery.removesuffix("index.html"))))
    page.goto(gallery + "#task=choice")
    page.locator("#rows button").first.wait_for()
    assert sorted(asked[1:]) == ["acc_norm/10/ckpt_001/choice.js", "acc_norm/10/ckpt_004/choice.js", "index.js", "questions/choice.js"]
    page.close()


@pytest.mark.slow
def test_what_a_model_prints_is_text(browser: "Browser", gallery: str) -> None:
    from playwright.sync_api import expect

    page, seen = opened(browser, gallery + "#task=writing")
    expect(page.locator("#row .response").first).to_contain_text("</script><script>document.title='owned'")
    page.goto(gallery + f"#task=writing&row={WHITE_ROW}")
    expect(page.locator("#row .answer").first).to_contain_text("nothing but white space, 40 characters")
    page.goto(gallery + "#task=choice&row=2")
    expect(page.locator(".options li").nth(2)).to_contain_text("<img src=x")
    assert page.title() != "owned"
    assert page.locator("img").count() == 0
    assert seen == []
    page.close()


@pytest.mark.slow
def test_prompts_are_read_along_the_training(browser: "Browser", gallery: str) -> None:
    from playwright.sync_api import expect

    page, seen = opened(browser, gallery + "#task=prompt_gallery")
    expect(page.locator(".along h3")).to_contain_text([f"ckpt_{number:03d}" for number in range(1, 5)])
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert seen == []
    page.close()
