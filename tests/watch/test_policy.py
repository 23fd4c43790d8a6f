"""From a verdict to facts: targets, windows, modes, budgets, and a human's answer that counts once."""

from collections.abc import Callable

import numpy as np
import pytest
from spike_families import TINY, calm, records

from k2.recipe.load import load_recipe
from k2.recipe.schema import Recipe
from k2.run.holdings import HeldCheckpoint, Holdings
from k2.run.ledger import AttemptStarted, ChunkDeferred, Fact, IncidentClosed, IncidentDecided, IncidentOpened, StepsSkipped
from k2.run.plan import Ask, Heal, next_action
from k2.watch.event import Event, Kind
from k2.watch.policy import DecisionRefused, answer, decide, judge
from k2.watch.target import abandoned

FIRST = AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)


def event(onset: int, verdict: int, *, kind: Kind = "malignant.long", attempt: int = 1) -> Event:
    return Event(kind, "stage1", attempt, onset, verdict, 1.5, 12.0, 4.4, 0.12, verdict - onset + 1, 0.25)


def holdings(recipe: Recipe, *checkpoints: HeldCheckpoint) -> Holdings:
    order = tuple(sorted(checkpoints, key=lambda c: (c.step, c.kind == "chunk")))
    return Holdings(prepared=True, checkpoints=order, reached={s.name: 0 for s in recipe.stages}, released=False)


def chunk(number: int, steps_per_chunk: int = 40) -> HeldCheckpoint:
    return HeldCheckpoint(f"ckpt_{number:03d}", "chunk", "stage1", number * steps_per_chunk, 0)


def rescue(step: int, kind: str = "rescue") -> HeldCheckpoint:
    return HeldCheckpoint(f"rescue_stage1_{step:06d}", kind, "stage1", step, 0)  # type: ignore[arg-type]


def usual(recipe: Recipe) -> Holdings:
    """Trained to step 305: a chunk's checkpoint every 40 steps, rescues every 10, one stop."""
    rescues = [rescue(step) for step in range(10, 310, 10) if step % 40]
    return holdings(recipe, *(chunk(n) for n in range(1, 8)), *rescues, rescue(305, "stop"))


def decided(facts: tuple[Fact, ...]) -> IncidentDecided:
    return next(f for f in facts if isinstance(f, IncidentDecided))


def test_auto_goes_back_by_the_margin_and_skips_what_spiked(recipe: Recipe) -> None:
    opened, skipped, decision = answer(recipe, [FIRST], usual(recipe), event(291, 302))
    assert isinstance(opened, IncidentOpened)
    assert (opened.incident, opened.attempt, opened.kind, opened.onset_step, opened.verdict_step) == (1, 1, "malignant.long", 291, 302)
    assert opened.evidence == {"rise_nats": 1.5, "z": 12.0, "reference": 4.4, "deviation": 0.12, "age": 12.0, "small_grad_fraction": 0.25}
    assert isinstance(decision, IncidentDecided)
    assert (decision.action, decision.checkpoint, decision.data, decision.who) == ("rollback", "rescue_stage1_000270", "skip", "policy")
    assert isinstance(skipped, StepsSkipped)
    assert (skipped.stage, skipped.first_step, skipped.last_step) == ("stage1", 271, 302)


def test_a_checkpoint_that_a_stop_made_is_no_target_but_is_abandoned(recipe: Recipe) -> None:
    held = holdings(recipe, rescue(270), rescue(277, "stop"), chunk(7), rescue(305, "stop"))
    opened, _, decision = answer(recipe, [FIRST], held, event(291, 302))
    assert isinstance(opened, IncidentOpened)
    assert isinstance(decision, IncidentDecided)
    assert decision.checkpoint == "rescue_stage1_000270"
    assert abandoned(held, opened, decision) == ("rescue_stage1_000277", "ckpt_007", "rescue_stage1_000305")


def test_the_window_is_limited_and_never_leaves_the_stage(with_spikes: Callable[..., Recipe]) -> None:
    short = with_spikes("max_skip_steps=5")
    skipped = answer(short, [FIRST], usual(short), event(291, 302))[1]
    assert isinstance(skipped, StepsSkipped)
    assert skipped.last_step == 296
    late = answer(with_spikes(), [FIRST], holdings(short, rescue(450)), event(470, 480))[1]
    assert isinstance(late, StepsSkipped)
    assert late.last_step == 480


def test_a_spike_in_the_first_chunk_goes_back_to_the_start(recipe: Recipe) -> None:
    facts = answer(recipe, [FIRST], holdings(recipe, rescue(30)), event(32, 43))
    assert decided(facts).checkpoint is None
    assert [(f.first_step, f.last_step) for f in facts if isinstance(f, StepsSkipped)] == [(1, 43)]
    opened = facts[0]
    assert isinstance(opened, IncidentOpened)
    assert abandoned(holdings(recipe, rescue(30)), opened, decided(facts)) == ("rescue_stage1_000030",)


def test_k2s_two_deferrals_are_reproduced() -> None:
    """K2 went back to checkpoint 160 and moved that chunk to the end, then to 185 and moved position 185 of the new order."""
    recipe = load_recipe("k2_65b")
    assert recipe.spikes.bypass == "defer"
    held = holdings(recipe, *(chunk(n, 941) for n in range(1, 200)))
    started = AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)
    first = answer(recipe, [started], held, event(160 * 941 + 700, 160 * 941 + 799))
    again = AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_160", first_step=160 * 941 + 1)
    second = answer(recipe, [started, *first, again], held, event(185 * 941 + 20, 185 * 941 + 119, attempt=2))
    assert [decided(facts).checkpoint for facts in (first, second)] == ["ckpt_160", "ckpt_185"]
    assert [decided(facts).data for facts in (first, second)] == ["defer", "defer"]
    assert [(f.stage, f.position) for f in first + second if isinstance(f, ChunkDeferred)] == [("stage1", 160), ("stage1", 185)]


def test_the_last_chunk_of_the_order_cannot_be_deferred_and_is_skipped(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('bypass="defer"')
    facts = answer(recipe, [FIRST], holdings(recipe, chunk(11)), event(460, 471))
    assert (decided(facts).checkpoint, decided(facts).data) == ("ckpt_011", "skip")
    assert not any(isinstance(f, ChunkDeferred) for f in facts)


def test_each_return_to_a_region_goes_twice_as_far_and_the_third_asks(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes()
    facts: list[Fact] = [FIRST]
    targets = []
    for attempt in (1, 2):
        targets.append(decided(given := answer(recipe, facts, usual(recipe), event(291, 302, attempt=attempt))).checkpoint)
        facts += [
            *given,
            IncidentClosed(incident=attempt),
            AttemptStarted(attempt=attempt + 1, stage="stage1", checkpoint=None, first_step=1),
        ]
    facts += (asked := answer(recipe, facts, usual(recipe), event(291, 302, attempt=3)))
    assert [f.fact for f in asked] == ["incident_opened"]
    targets.append(decided(decide(recipe, facts, usual(recipe), 3, "rollback")).checkpoint)
    assert targets == ["rescue_stage1_000270", "rescue_stage1_000260", "ckpt_006"]  # margins of 12, 24, 48 steps


def test_a_policy_throws_no_long_window_away(recipe: Recipe) -> None:
    """The limit before the onset is 40 + 12 + 10 = 62 steps: more is skipped only when a human says so."""

    def given(onset: int, *held: HeldCheckpoint) -> list[str]:
        return [f.fact for f in answer(recipe, [FIRST], holdings(recipe, *held), event(onset, onset + 11))]

    automatic = ["incident_opened", "steps_skipped", "incident_decided"]
    assert given(102, chunk(1)) == automatic
    assert given(103, chunk(1)) == ["incident_opened"]
    assert given(62) == automatic
    assert given(63) == ["incident_opened"]


def test_a_policy_defers_nothing_from_the_start_of_a_stage_but_its_first_chunk(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('bypass="defer"')
    first = answer(recipe, [FIRST], holdings(recipe), event(40, 51))
    assert (decided(first).checkpoint, decided(first).data) == (None, "defer")
    assert [f.fact for f in answer(recipe, [FIRST], holdings(recipe), event(41, 52))] == ["incident_opened"]


def test_a_bad_resume_does_not_lose_a_stage_by_itself(recipe: Recipe) -> None:
    started = AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_007", first_step=281)
    bad = event(282, 283, kind="bad_resume", attempt=2)
    assert [f.fact for f in answer(recipe, [FIRST, started], holdings(recipe, chunk(7)), bad)] == ["incident_opened"]


def test_the_demonstrations_spike_is_healed_without_anyone() -> None:
    recipe = load_recipe("k2_tiny")
    held = holdings(recipe, *(chunk(n) for n in range(1, 8)), rescue(260), rescue(300))
    assert decided(answer(recipe, [FIRST], held, event(291, 302))).checkpoint == "ckpt_007"


def test_an_incident_of_another_region_or_stage_does_not_widen_the_margin(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes("persistence_steps=4")  # a region is 200 steps
    earlier = [
        IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=80, verdict_step=84),
        IncidentDecided(incident=1, action="rollback"),
        IncidentOpened(incident=2, stage="stage2", attempt=1, kind="malignant.long", onset_step=291, verdict_step=295),
        IncidentDecided(incident=2, action="rollback"),
        IncidentOpened(incident=3, stage="stage1", attempt=1, kind="malignant.long", onset_step=291, verdict_step=295),
        IncidentDecided(incident=3, action="continue"),
    ]
    assert decided(answer(recipe, [FIRST, *earlier], usual(recipe), event(291, 295))).checkpoint == "rescue_stage1_000270"


def test_a_bad_resume_goes_to_the_next_older_files_with_the_same_data(recipe: Recipe) -> None:
    started = AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_007", first_step=281)
    facts = answer(recipe, [FIRST, started], usual(recipe), event(282, 283, kind="bad_resume", attempt=2))
    assert (decided(facts).checkpoint, decided(facts).data) == ("rescue_stage1_000270", "none")
    assert len(facts) == 2


def skipped_to(last: int, first: int = 271) -> list[Fact]:
    """A spike at step 291 was answered: back to step 270, the steps up to `last` skipped, and training goes on."""
    opened = IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=291, verdict_step=302)
    skipped = StepsSkipped(stage="stage1", first_step=first, last_step=last, who="policy", why="incident 001")
    decision = IncidentDecided(incident=1, action="rollback", checkpoint="rescue_stage1_000270", data="skip")
    again = AttemptStarted(attempt=2, stage="stage1", checkpoint="rescue_stage1_000270", first_step=271)
    return [FIRST, opened, skipped, decision, IncidentClosed(incident=1), again]


def test_a_loud_resume_just_behind_a_skipped_window_is_bad_data_that_goes_on(recipe: Recipe) -> None:
    """The state was calm for twenty steps before, and what was loaded is what was saved: an older target, and a longer window."""
    facts = answer(recipe, skipped_to(302), usual(recipe), event(303, 304, kind="bad_resume", attempt=2))
    assert (decided(facts).checkpoint, decided(facts).data) == ("rescue_stage1_000260", "skip")
    assert [(f.first_step, f.last_step) for f in facts if isinstance(f, StepsSkipped)] == [(261, 303 + 40)]


def test_a_loud_resume_blames_the_files_where_its_steps_were_trained_before(recipe: Recipe) -> None:
    def data(facts: list[Fact], onset: int) -> str:
        return decided(answer(recipe, facts, usual(recipe), event(onset, onset + 1, kind="bad_resume", attempt=2))).data

    older = AttemptStarted(attempt=2, stage="stage1", checkpoint="rescue_stage1_000260", first_step=261)
    replaying = [*skipped_to(302)[:-1], older]
    assert data(replaying, 263) == "none"  # loud on steps that were calm
    assert data(replaying, 303) == "skip"  # calm up to the window, loud behind it
    past = AttemptStarted(attempt=2, stage="stage1", checkpoint="rescue_stage1_000310", first_step=311)
    assert data([*skipped_to(302)[:-1], past], 312) == "none"  # resumed past the window
    same_data = [f.model_copy(update={"data": "none"}) if isinstance(f, IncidentDecided) else f for f in skipped_to(302)]
    assert data(same_data, 303) == "none"


def test_a_loud_first_step_of_the_chunk_that_came_in_a_deferred_ones_place_is_its_own_data(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('bypass="defer"')
    first = answer(recipe, [FIRST], usual(recipe), event(291, 302))
    again = AttemptStarted(attempt=2, stage="stage1", checkpoint=decided(first).checkpoint, first_step=281)
    second = answer(
        recipe, [FIRST, *first, IncidentClosed(incident=1), again], usual(recipe), event(281, 282, kind="bad_resume", attempt=2)
    )
    assert [decided(facts).data for facts in (first, second)] == ["defer", "defer"]
    assert [f.position for f in (*first, *second) if isinstance(f, ChunkDeferred)] == [7, 7]


def test_the_modes_and_the_budget(with_spikes: Callable[..., Recipe]) -> None:
    observing, asking, spent = with_spikes('mode="observe"'), with_spikes('mode="confirm"'), with_spikes("max_rollbacks=1")
    seen = answer(observing, [FIRST], usual(observing), event(291, 302))
    assert [f.fact for f in seen] == ["incident_opened", "incident_decided"]
    assert decided(seen).action == "continue"
    asked = answer(asking, [FIRST], usual(asking), event(291, 302))
    assert [f.fact for f in asked] == ["incident_opened"]
    assert isinstance(next_action(asking, [FIRST, *asked], usual(asking)), Ask)
    first = answer(spent, [FIRST], usual(spent), event(291, 302))
    assert isinstance(next_action(spent, [FIRST, *first], usual(spent)), Heal)
    assert [f.fact for f in answer(spent, [FIRST, *first], usual(spent), event(300, 311, attempt=2))] == ["incident_opened"]


def test_a_human_chooses_the_checkpoint_and_the_data(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('mode="confirm"')
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], usual(recipe), event(291, 302))]
    skipped, decision = decide(recipe, facts, usual(recipe), 1, "rollback", to="ckpt_005", data="skip", who="ada")
    assert isinstance(skipped, StepsSkipped)
    assert (skipped.first_step, skipped.last_step, skipped.who) == (201, 302, "ada")
    assert isinstance(decision, IncidentDecided)
    assert (decision.checkpoint, decision.data, decision.who) == ("ckpt_005", "skip", "ada")
    deferred = decide(recipe, facts, usual(recipe), 1, "rollback", data="defer")
    assert [f.position for f in deferred if isinstance(f, ChunkDeferred)] == [7]
    assert decided(deferred).checkpoint == "ckpt_007"
    assert decided(decide(recipe, facts, usual(recipe), 1, "rollback")).checkpoint == "rescue_stage1_000270"
    assert [f.fact for f in decide(recipe, facts, usual(recipe), 1, "abort")] == ["incident_decided"]


def test_a_decision_is_single_use(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('mode="confirm"')
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], usual(recipe), event(291, 302))]
    facts += decide(recipe, facts, usual(recipe), 1, "continue", who="ada")
    with pytest.raises(DecisionRefused, match=r"answered already, with 'continue' by ada.*single-use"):
        decide(recipe, facts, usual(recipe), 1, "rollback")


@pytest.mark.parametrize("data", ["skip", "defer"])
def test_a_data_operation_that_stands_already_is_not_repeated(with_spikes: Callable[..., Recipe], data: str) -> None:
    """Of a torn append the operation stands and the decision does not: the incident asks, and the same chunk is deferred once."""
    recipe = with_spikes(f'bypass="{data}"')
    opened, operation, _ = answer(recipe, [FIRST], usual(recipe), event(291, 302))
    torn = [FIRST, opened, operation]
    assert isinstance(next_action(recipe, torn, usual(recipe)), Ask)
    assert [f.fact for f in decide(recipe, torn, usual(recipe), 1, "rollback")] == ["incident_decided"]
    assert [f.fact for f in decide(recipe, torn, usual(recipe), 1, "rollback", to="ckpt_005", data="skip")] == [
        "steps_skipped",
        "incident_decided",
    ]


@pytest.mark.parametrize(
    ("incident", "action", "to", "data", "says"),
    [
        (9, "rollback", None, None, r"no incident 9; the run has 1"),
        (1, "rollback", "ckpt_099", None, r"ckpt_099 is no checkpoint of stage1.*can be gone back to: .*ckpt_007"),
        (1, "rollback", "rescue_stage1_000300", None, r"is at step 300, past step 290"),
        (1, "rollback", "rescue_stage1_000290", "defer", r"is at step 290, past step 280"),
        (1, "continue", "ckpt_005", None, r"'continue' goes back nowhere"),
        (1, "abort", None, "skip", r"'abort' goes back nowhere"),
    ],
)
def test_an_answer_that_cannot_be_given_says_why(
    with_spikes: Callable[..., Recipe], incident: int, action: str, to: str | None, data: str | None, says: str
) -> None:
    recipe = with_spikes('mode="confirm"')
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], usual(recipe), event(291, 302))]
    with pytest.raises(DecisionRefused, match=says):
        decide(recipe, facts, usual(recipe), incident, action, to=to, data=data)  # type: ignore[arg-type]


def test_a_rollback_to_what_is_not_held_says_so(recipe: Recipe) -> None:
    opened = IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=291, verdict_step=302)
    gone = IncidentDecided(incident=1, action="rollback", checkpoint="ckpt_003")
    with pytest.raises(ValueError, match="ckpt_003, which is not held"):
        abandoned(holdings(recipe, chunk(7)), opened, gone)
    assert abandoned(holdings(recipe, chunk(7)), opened, IncidentDecided(incident=1, action="continue")) == ()


def kicked(seed: int = 0) -> np.ndarray:
    loss = calm(TINY, np.random.default_rng(seed))
    loss[290:330] += 2.0
    return loss


def test_a_verdict_is_found_in_the_records_until_an_incident_answers_it(recipe: Recipe) -> None:
    steps = records(kicked())[:310]
    found = judge(recipe, [FIRST], "stage1", steps)
    assert found is not None
    assert found == judge(recipe, [FIRST], "stage1", steps[: found.verdict_step])
    assert judge(recipe, [FIRST], "stage1", steps[: found.verdict_step - 1]) is None
    facts: list[Fact] = [FIRST, *answer(recipe, [FIRST], usual(recipe), found)]
    assert judge(recipe, facts, "stage1", steps) is None
    assert judge(recipe, [], "stage1", []) is None


def test_the_verdict_of_an_earlier_attempt_is_history_yet_the_detector_knows_it(recipe: Recipe) -> None:
    """After `continue` the next attempt goes on inside the spike: no second incident for the same one."""
    loss = kicked()
    second = AttemptStarted(attempt=2, stage="stage1", checkpoint="rescue_stage1_000305", first_step=306)
    steps = records(loss[:305]) + records(loss[305:], attempt=2, first_step=306)
    assert judge(recipe, [FIRST, second], "stage1", steps) is None


def test_a_second_spike_of_the_same_attempt_is_another_verdict(with_spikes: Callable[..., Recipe]) -> None:
    recipe = with_spikes('mode="observe"')
    loss = kicked()
    loss[400:440] += 2.0
    facts: list[Fact] = [FIRST]
    onsets = []
    while (found := judge(recipe, facts, "stage1", records(loss))) is not None:
        onsets.append(found.onset_step)
        facts += answer(recipe, facts, usual(recipe), found)
    assert [abs(a - b) <= 3 for a, b in zip(onsets, (291, 401), strict=True)] == [True, True]
