"""The ladder and its limits: older targets, a remedy with approval, budgets, progress; and the probe for hardware."""

from collections.abc import Callable

import pytest
from test_policy import FIRST, chunk, decided, event, holdings, rescue, usual

from k2.recipe.schema import Recipe
from k2.run.ledger import (
    AttemptStarted,
    Fact,
    IncidentClosed,
    IncidentDecided,
    IncidentOpened,
    ReplayProbed,
    StepsSkipped,
    UpdatesTempered,
)
from k2.run.plan import Ask, Heal, next_action
from k2.run.tempering import Temper, temper_at, tempered
from k2.watch.event import Kind
from k2.watch.policy import answer, answer_opened, decide, why_asked
from k2.watch.probe import Probe, not_probed, probed, wanted_probe


def opened(number: int, onset: int, *, kind: Kind = "malignant.long", attempt: int = 1) -> IncidentOpened:
    found = event(onset, onset + 11, kind=kind, attempt=attempt)
    return IncidentOpened(
        incident=number,
        stage="stage1",
        attempt=attempt,
        kind=kind,
        onset_step=onset,
        verdict_step=onset + 11,
        evidence={"reference": found.reference, "deviation": found.deviation},
    )


def rolled_back(number: int, onset: int, to: str | None = "rescue_stage1_000270", kind: Kind = "malignant.long") -> list[Fact]:
    return [
        opened(number, onset, kind=kind, attempt=number),
        IncidentDecided(incident=number, action="rollback", checkpoint=to),
        IncidentClosed(incident=number),
        AttemptStarted(attempt=number + 1, stage="stage1", checkpoint=to, first_step=1),
    ]


def test_the_second_target_is_older_than_the_first_even_where_the_margin_would_reach_it(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("margin_growth=1")
    facts = [FIRST, *rolled_back(1, 291)]
    assert decided(answer(recipe, facts, usual(recipe), event(291, 302, attempt=2))).checkpoint == "rescue_stage1_000260"


def test_deferring_again_goes_to_an_older_chunk(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('bypass="defer"', "margin_steps=0")
    facts = [FIRST, *rolled_back(1, 291, "ckpt_007")]
    assert decided(answer(recipe, facts, usual(recipe), event(291, 302, attempt=2))).checkpoint == "ckpt_006"


def test_a_spike_of_another_region_begins_the_ladder_anew(recipe: Recipe) -> None:
    """A region is 5,000 steps at a persistence of 100, and at most a quarter of the stage: 120 steps here."""
    far = holdings(recipe, *(chunk(n) for n in range(1, 12)), *(rescue(s) for s in range(10, 430, 10)))
    assert decided(answer(recipe, [FIRST, *rolled_back(1, 291)], far, event(420, 431, attempt=2))).checkpoint == "rescue_stage1_000400"
    assert decided(answer(recipe, [FIRST, *rolled_back(1, 301)], far, event(420, 431, attempt=2))).checkpoint == "rescue_stage1_000390"


def third(recipe: Recipe) -> list[Fact]:
    """Two rollbacks of the region are behind the run."""
    return [FIRST, *rolled_back(1, 291), *rolled_back(2, 291, "rescue_stage1_000260")]


@pytest.mark.parametrize(("remedy", "factors"), [("learning_rate", (0.9, 1.0)), ("clip", (1.0, 0.5))])
def test_the_third_rollback_makes_the_updates_smaller_and_asks_first(
    with_spikes: Callable[..., Recipe], remedy: str, factors: tuple[float, float]
) -> None:
    recipe = with_spikes(f'third_remedy="{remedy}"')
    facts = third(recipe)
    asked = answer(recipe, facts, usual(recipe), event(291, 302, attempt=3))
    assert isinstance(next_action(recipe, [*facts, *asked], usual(recipe)), Ask)
    incident = asked[0]
    assert isinstance(incident, IncidentOpened)
    assert "2 rollbacks in this region did not help, and the next changes the" in str(incident.why_asked)
    assert incident.why_asked == why_asked(recipe, facts, usual(recipe), incident)
    skipped, change, decision = decide(recipe, [*facts, *asked], usual(recipe), 3, "rollback", who="ada")
    assert isinstance(skipped, StepsSkipped)
    assert isinstance(change, UpdatesTempered)
    assert isinstance(decision, IncidentDecided)
    assert (change.learning_rate_factor, change.clip_factor, change.who) == (*factors, "ada")
    assert (change.first_step, change.last_step) == (241, 291 + 120)
    assert temper_at(tempered([change], "stage1"), 300) == Temper(*factors)
    assert temper_at(tempered([change], "stage1"), 412) == Temper()
    assert temper_at(tempered([change], "stage2"), 300) == Temper()


def test_without_approval_the_third_goes_alone_and_the_fourth_asks(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("third_needs_approval=false", "max_skip_steps=200", "skip_budget=1.0", "max_fruitless_cycles=9")
    facts = third(recipe)
    given = answer(recipe, facts, usual(recipe), event(291, 302, attempt=3))
    assert [f.fact for f in given] == ["incident_opened", "steps_skipped", "updates_tempered", "incident_decided"]
    facts = [*facts, *given, IncidentClosed(incident=3), AttemptStarted(attempt=4, stage="stage1", checkpoint=None, first_step=1)]
    asked = answer(recipe, facts, usual(recipe), event(291, 302, attempt=4))
    assert [f.fact for f in asked] == ["incident_opened"]
    assert why_asked(recipe, facts, usual(recipe), opened(4, 291, attempt=4)) == "3 rollbacks in this region did not help"


def test_a_slow_rise_is_asked_about_where_the_recipe_says_so(with_spikes: Callable[..., Recipe]) -> None:
    asks = with_spikes('asks_about=["malignant.creep"]')
    assert [f.fact for f in answer(asks, [FIRST], usual(asks), event(291, 302, kind="malignant.creep"))] == ["incident_opened"]
    assert len(answer(asks, [FIRST], usual(asks), event(291, 302))) == 3


def test_the_stages_budget_of_skipped_steps(with_spikes: Callable[..., Recipe]) -> None:
    """A first window always fits; the next one only into the share: 32 of 480 steps each."""
    small = with_spikes("skip_budget=0.1")
    held = usual(small)
    facts = [FIRST, *answer(small, [FIRST], held, event(291, 302)), IncidentClosed(incident=1)]
    far = holdings(small, *(chunk(n) for n in range(1, 12)), *(rescue(s) for s in range(10, 430, 10)))
    later = event(431, 442, attempt=2)
    assert [f.fact for f in answer(with_spikes("skip_budget=0.0"), [FIRST], held, event(291, 302))][1] == "steps_skipped"
    assert [f.fact for f in answer(small, facts, far, later)] == ["incident_opened"]
    assert "budget of skipped steps" in str(why_asked(small, facts, far, opened(2, 431, attempt=2)))
    assert len(answer(with_spikes("skip_budget=0.2"), facts, far, later)) == 3


def test_rollbacks_that_gain_no_step_end_in_a_question(with_spikes: Callable[..., Recipe]) -> None:
    """Bad resumes count here, though no region counts them: three times back, and no spike lies further on."""
    recipe = with_spikes()
    facts: list[Fact] = [FIRST]
    for number in (1, 2, 3):
        facts += rolled_back(number, 291 - number, kind="bad_resume")
    assert "brought no new highest step" in str(why_asked(recipe, facts, usual(recipe), opened(4, 285, kind="bad_resume", attempt=4)))
    assert why_asked(recipe, facts, usual(recipe), opened(4, 299, attempt=4)) is None


def test_a_day_with_many_rollbacks_ends_in_a_question(with_spikes: Callable[..., Recipe]) -> None:
    """Two of different regions in one day are as many as this recipe allows; the next day begins anew."""
    recipe = with_spikes("max_rollbacks_in_a_day=2", "persistence_steps=4")
    decisions = [IncidentDecided(at=f"2026-01-01T{hour:02d}:00:00+00:00", incident=hour, action="rollback") for hour in (1, 23)]
    facts: list[Fact] = [FIRST, *decisions]
    for moment, reason in (
        ("2026-01-02T00:59:00+00:00", "the run has gone back 2 times within a day, as often as it may"),
        ("2026-01-02T01:01:00+00:00", None),
    ):
        incident = opened(24, 291).model_copy(update={"at": moment})
        assert why_asked(recipe, facts, usual(recipe), incident) == reason


def test_the_facts_of_a_torn_append_are_not_repeated(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("third_needs_approval=false")
    facts = third(recipe)
    incident, skipped, change, _ = answer(recipe, facts, usual(recipe), event(291, 302, attempt=3))
    torn = [*facts, incident, skipped, change]
    assert [f.fact for f in decide(recipe, torn, usual(recipe), 3, "rollback")] == ["incident_decided"]


def waiting_for_its_probe(recipe: Recipe) -> tuple[list[Fact], IncidentOpened, Probe]:
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], usual(recipe), event(291, 302))]
    incident = facts[1]
    assert isinstance(incident, IncidentOpened)
    probe = wanted_probe(recipe, facts, usual(recipe), incident)
    assert probe is not None
    return facts, incident, probe


def test_a_probe_comes_before_the_answer_and_asks_for_the_same_data(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("probe=true")
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], usual(recipe), event(291, 302))]
    assert [f.fact for f in facts] == ["attempt_started", "incident_opened"]
    incident = facts[1]
    assert isinstance(incident, IncidentOpened)
    probe = wanted_probe(recipe, facts, usual(recipe), incident)
    assert probe is not None
    assert (probe.checkpoint, probe.first_step, probe.last_step) == ("rescue_stage1_000270", 271, 295)
    same = {step: 4.4 + 2.0 * (step >= 291) for step in range(271, 296)}
    came_back = probed(recipe, incident, probe, same)
    assert came_back.reproduced
    again = [*facts, came_back]
    assert wanted_probe(recipe, again, usual(recipe), incident) is None
    assert [f.fact for f in answer_opened(recipe, again, usual(recipe), incident)] == ["steps_skipped", "incident_decided"]


def test_a_spike_that_does_not_come_back_costs_no_data(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("probe=true")
    facts, incident, probe = waiting_for_its_probe(recipe)
    innocent = probed(recipe, incident, probe, {step: 4.4 for step in range(271, 296)})
    assert isinstance(innocent, ReplayProbed)
    assert not innocent.reproduced
    (decision,) = answer_opened(recipe, [*facts, innocent], usual(recipe), incident)
    assert isinstance(decision, IncidentDecided)
    assert (decision.checkpoint, decision.data) == ("rescue_stage1_000270", "none")
    assert isinstance(next_action(recipe, [*facts, innocent, decision], usual(recipe)), Heal)
    assert probed(recipe, incident, probe, {291: float("nan")}).reproduced


def test_a_probe_says_where_the_replay_went_another_way(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("probe=true")
    facts, incident, probe = waiting_for_its_probe(recipe)
    recorded = {step: 4.4 + 2.0 * (step >= 291) for step in range(271, 303)}
    innocent = probed(recipe, incident, probe, {step: 4.4001 for step in range(271, 296)}, recorded)
    assert (innocent.reproduced, innocent.differs_at) == (False, 291)  # other devices agree to a thousandth
    assert "step 291" in innocent.why
    again = probed(recipe, incident, probe, {step: recorded[step] for step in range(271, 296)}, recorded)
    assert (again.reproduced, again.differs_at) == (True, None)
    failed = not_probed(incident, probe, "the probe ended with exit code 1")
    answers = answer_opened(recipe, [*facts, failed], usual(recipe), incident)
    assert [f.fact for f in answers] == ["steps_skipped", "incident_decided"]  # as without a probe


def test_no_probe_where_it_could_not_tell(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("probe=true")
    for kind in ("bad_resume", "malignant.creep"):
        assert wanted_probe(recipe, [FIRST], usual(recipe), opened(1, 291, kind=kind)) is None
    assert wanted_probe(recipe, [FIRST, *rolled_back(1, 291)], usual(recipe), opened(2, 291, attempt=2)) is None
    assert wanted_probe(with_spikes(), [FIRST], usual(recipe), opened(1, 291)) is None


def test_a_kind_that_no_verdict_has_is_refused(with_spikes: Callable[..., Recipe]) -> None:
    with pytest.raises(ValueError, match=r"asks_about"):
        with_spikes('asks_about=["creep"]')
