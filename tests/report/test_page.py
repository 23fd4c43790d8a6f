"""The page of a run, through the door: whole, just begun, in trouble, and with hostile text in it."""

import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from synthetic_run import ONSET, TARGET, VERDICT, Writer

from k2.recipe.schema import Recipe
from k2.report.content import CAUSE_WORDS
from k2.report.page import build_page, show_checkpoint
from k2.run.layout import RunLayout
from k2.run.lease import hold
from k2.run.ledger import AttemptStarted, ChunkDeferred, DutyFailed, IncidentOpened, RunCreated, read_facts
from k2.run.receipt import find_receipt

SECTIONS = ("standing", "curves", "incidents", "scores", "mix", "checkpoints", "time", "energy", "record")
VOID = {"meta", "br", "hr", "input", "link", "img"}


class Outline(HTMLParser):
    """Which elements there are, whether they close, and what they link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("href", "src") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def page_of(writer: Writer) -> str:
    return build_page(writer.recipe, writer.layout, read_facts(writer.layout.ledger), writer.clock).read_text("utf-8")


def words_of(page: str) -> str:
    body = page[page.index("<body>") : page.index('<script type="application/json"')]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body).replace("\u00a0", " "))


def test_the_whole_story_is_told(told: Writer) -> None:
    page = page_of(told)
    outline, words = Outline(page), words_of(page)
    assert [section for section in outline.ids if section != "points"] == list(SECTIONS)
    assert outline.wrong == [] and outline.open == []
    assert "story-1 done" in words
    assert "100 % of the planned steps" in words
    assert f"At step {ONSET} of stage1 the loss left its reference" in words
    assert f"The policy went back to rescue_stage1_000{TARGET} and skipped steps {TARGET + 1} to {VERDICT}." in words
    assert "a long malignant spike" in words and "rescue_stage1_000280" in words
    assert "rank 1 was killed" in words
    assert "nothing was metered" in words
    assert "MFU 44.4 % (12LDS), 43.6 % (causal)" in words and words.count("MFU") == 1  # no figure where no peak is known


def test_it_loads_nothing_from_elsewhere_and_its_links_lead_into_the_run(told: Writer) -> None:
    page = page_of(told)
    outline = Outline(page)
    assert not {"img", "link", "iframe"} & set(outline.tags)
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    assert len(outline.links) > 60
    assert all((told.layout.page.parent / link).resolve().exists() for link in outline.links)
    assert all(link.startswith("../") for link in outline.links)


def test_the_abandoned_branch_and_the_skipped_window_are_drawn(told: Writer) -> None:
    page = page_of(told)
    assert page.count('class="line abandoned"') >= 4  # loss and gradient norm, wide and narrow
    assert page.count('class="span skipped"') >= 6
    assert "peak 6." in page and ">incident 1<" in page


def test_hovering_reads_the_accepted_lineage_only(told: Writer) -> None:
    page = page_of(told)
    text = re.search(r'<script type="application/json" id="points">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    points = json.loads(text.group(1))
    steps = [int(step) for _, stage, step, *_ in points if stage == "stage1"]
    assert not set(steps) & set(range(TARGET + 1, VERDICT + 1))
    assert points[-1][:3] == [560, "stage2", "80"]
    assert max(float(loss) for *_, loss, _, _ in points) < 7


def test_obligations_are_ticked_as_they_stand(told: Writer) -> None:
    page = page_of(told)
    row = page[page.index(">ckpt_004</a>") : page.index(">ckpt_005</a>")]
    assert row.count("●") == 4 and 'title="ckpt_004: published, not owed"' in row
    row = page[page.index(">ckpt_006</a>") : page.index(">ckpt_007</a>")]
    assert row.count("●") == 5 and "../published/ckpt_006/" in row


def test_scores_carry_their_first_and_last_value(told: Writer) -> None:
    page = words_of(page_of(told))
    for task in ("next_identifier", "held_out_prose", "arithmetic", "pair_preference"):
        assert task in page
    assert "exact_match, 3-shot, 60 samples; higher is better" in page
    assert "bits_per_byte, 0-shot, 60 samples; lower is better" in page


def test_the_mix_shows_declared_beside_actual(told: Writer) -> None:
    words = words_of(page_of(told))
    assert "45.0 % 61.5 % 0.5×" in words  # declared, actual, repeat of code in stage 1


def test_a_run_that_has_just_begun_has_a_page(writer: Writer) -> None:
    page = page_of(writer)
    outline, words = Outline(page), words_of(page)
    assert [section for section in outline.ids if section != "points"] == list(SECTIONS)
    assert "No step is trained yet." in words and "No checkpoint is scored yet." in words
    assert "the chunks are not built yet" in words and "Nothing is booked yet." not in page[: page.index("<body>")]


def test_a_folder_without_a_single_fact_has_a_page(recipe: Recipe, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "empty")
    assert "No step is trained yet." in build_page(recipe, layout, [], 0.0).read_text("utf-8")


def test_a_run_in_training_says_how_long_it_still_takes(writer: Writer) -> None:
    writer.prepare()
    writer.train(writer.recipe.stages[0], 1, None, 1, 100)
    with hold(writer.layout):
        words = words_of(page_of(writer))
    assert "story-1 training" in words and "of training left" in words
    assert "17.9 % of the planned steps, now at step 100 of stage1" in words


def test_a_single_step_is_enough_for_every_curve(writer: Writer) -> None:
    writer.prepare()
    writer.train(writer.recipe.stages[0], 1, None, 1, 1)
    assert Outline(page_of(writer)).wrong == []


def test_an_undecided_incident_waits_on_the_page(writer: Writer) -> None:
    writer.prepare()
    writer.train(writer.recipe.stages[0], 1, None, 1, 279, spiked=True)
    writer.fact(IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=ONSET, verdict_step=VERDICT))
    words = words_of(page_of(writer))
    assert "story-1 waiting" in words
    assert "Nothing is decided yet: the run waits for a person." in words
    assert "abandoned branch" not in words[words.index("Incident 1") :]


def test_a_loss_that_is_no_number_is_marked_and_breaks_nothing(writer: Writer) -> None:
    writer.prepare()
    stage = writer.recipe.stages[0]
    writer.train(stage, 1, None, 1, 30)
    broken = writer.record(stage, 1, 31, spiked=False)
    path = writer.layout.metrics("stage1", 1)
    with path.open("a") as file:
        file.write(type(broken)(**{**vars(broken), "loss": float("nan"), "grad_norm": float("inf")}).line())
    page = page_of(writer)
    assert "not-finite" in page and "NaN" in page
    assert Outline(page).wrong == []


def test_hostile_text_stays_text(recipe: Recipe, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    changed = recipe.model_copy(update={"description": hostile})
    writer = Writer(changed, RunLayout(tmp_path / "hostile"))
    writer.create()
    writer.prepare()
    writer.train(recipe.stages[0], 1, None, 1, 60)
    writer.fact(DutyFailed(checkpoint="ckpt_001", duty="published", why=hostile))
    writer.fact(ChunkDeferred(stage="stage1", position=1, who=hostile, why=hostile))
    page = page_of(writer)
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    assert "<img" not in page and page.count("<script") == 2 and "alert(1)</script>" not in page


def test_every_cause_of_time_has_a_colour() -> None:
    style = (resources.files("k2.report") / "page.css").read_text("utf-8")
    assert [cause for cause in CAUSE_WORDS if f".{cause}{{background:" not in style] == []


def test_the_page_is_replaced_at_once_and_leaves_nothing_beside_it(told: Writer) -> None:
    first = page_of(told)
    second = page_of(told)
    assert first == second  # the same facts at the same time
    assert [path.name for path in told.layout.page.parent.iterdir() if path.name.startswith(".")] == []


def test_showing_a_checkpoint_leaves_a_receipt_once(writer: Writer) -> None:
    writer.prepare()
    writer.train(writer.recipe.stages[0], 1, None, 1, 100)
    writer.settle(1, ("verified", "exported", "evaluated"))
    facts = read_facts(writer.layout.ledger)
    receipt = show_checkpoint(writer.recipe, writer.layout, facts, "ckpt_001", writer.clock)
    assert receipt.kind == "shown" and set(receipt.inputs) == {"checkpoint", "scores"}
    assert find_receipt(writer.layout.shown("ckpt_001")) == receipt
    assert show_checkpoint(writer.recipe, writer.layout, facts, "ckpt_001", writer.clock + 9) == receipt
    assert 'aria-label="ckpt_001 shown"' in page_of(writer)


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_stop_without_any_record_is_no_trouble(writer: Writer, attempts: int) -> None:
    writer.prepare()
    for attempt in range(attempts):
        writer.fact(AttemptStarted(attempt=attempt + 1, stage="stage1", checkpoint=None, first_step=1))
    writer.fact(RunCreated(run="again", recipe="0", recipe_name="again"))
    assert "No step is trained yet." in page_of(writer)
