"""What is next, for every state a run can be in: decided from facts and holdings alone."""

from dataclasses import replace

from k2.recipe.schema import Recipe
from k2.run.holdings import DUTIES, HeldCheckpoint, Holdings
from k2.run.ledger import AttemptEnded, AttemptStarted, Fact, IncidentClosed, IncidentDecided, IncidentOpened
from k2.run.plan import Ask, Done, Heal, Prepare, Release, Settle, Train, duties_of, next_action, owed_duties

OPENED = IncidentOpened(incident=1, stage="stage1", attempt=1, kind="malignant.long", onset_step=12, verdict_step=16)
ROLLBACK = IncidentDecided(incident=1, action="rollback", checkpoint="ckpt_001", data="skip")


def chunk(number: int, stage: str, step: int, settled: tuple[str, ...] = ()) -> HeldCheckpoint:
    return HeldCheckpoint(f"ckpt_{number:03d}", "chunk", stage, step, step * 100, frozenset(settled))  # type: ignore[arg-type]


def holdings(*checkpoints: HeldCheckpoint, prepared: bool = True, stage1: int = 0, stage2: int = 0, released: bool = False) -> Holdings:
    return Holdings(prepared, checkpoints, {"stage1": stage1, "stage2": stage2}, released)


def all_trained(recipe: Recipe, settled: tuple[str, ...] = ()) -> list[HeldCheckpoint]:
    one, two = recipe.stages
    first = [chunk(k + 1, "stage1", (k + 1) * one.steps_per_chunk, settled) for k in range(one.chunks)]
    return first + [chunk(one.chunks + k + 1, "stage2", (k + 1) * two.steps_per_chunk, settled) for k in range(two.chunks)]


def test_a_new_run_prepares_then_trains_from_scratch(recipe: Recipe) -> None:
    assert next_action(recipe, [], holdings(prepared=False)) == Prepare()
    assert next_action(recipe, [], holdings()) == Train("stage1", 1, None, 1)


def test_training_goes_on_from_the_newest_checkpoint(recipe: Recipe) -> None:
    started: list[Fact] = [AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1)]
    rescue = HeldCheckpoint("rescue_stage1_000012", "rescue", "stage1", 12, 1200)
    held = holdings(chunk(1, "stage1", 8), rescue, stage1=13)
    assert next_action(recipe, started, held) == Train("stage1", 2, "rescue_stage1_000012", 13)


def test_the_second_stage_starts_from_the_end_of_the_first(recipe: Recipe) -> None:
    trained = all_trained(recipe)[: recipe.stages[0].chunks]
    assert next_action(recipe, [], holdings(*trained, stage1=24)) == Train("stage2", 1, trained[-1].name, 1)


def test_an_incident_comes_before_everything(recipe: Recipe) -> None:
    held = holdings(*all_trained(recipe))
    assert next_action(recipe, [OPENED], held) == Ask(OPENED)
    assert next_action(recipe, [OPENED, ROLLBACK], held) == Heal(OPENED, ROLLBACK)
    closed = IncidentClosed(incident=1)
    assert isinstance(next_action(recipe, [OPENED, ROLLBACK, closed], held), Settle)
    abort = ROLLBACK.model_copy(update={"action": "abort"})
    assert next_action(recipe, [OPENED, abort, closed], held) == Done(aborted=True)


def test_the_first_answer_counts(recipe: Recipe) -> None:
    later = ROLLBACK.model_copy(update={"action": "abort"})
    assert next_action(recipe, [OPENED, ROLLBACK, later], holdings()) == Heal(OPENED, ROLLBACK)


def test_a_run_ends_settled_and_released(recipe: Recipe) -> None:
    trained = all_trained(recipe)
    assert next_action(recipe, [], holdings(*trained)) == Settle("ckpt_001", "verified")
    settled = all_trained(recipe, DUTIES)
    assert next_action(recipe, [], holdings(*settled)) == Release()
    assert next_action(recipe, [], holdings(*settled, released=True)) == Done()


def test_nothing_is_owed_by_an_ended_stage_before_its_last_attempt_is_judged(recipe: Recipe) -> None:
    held = holdings(*all_trained(recipe), stage1=24, stage2=4)
    started: list[Fact] = [AttemptStarted(attempt=n, stage=f"stage{n}", checkpoint=None, first_step=1) for n in (1, 2)]
    first_ended: list[Fact] = [*started, AttemptEnded(attempt=1, outcome="completed", exit_code=0)]
    assert {owed.checkpoint for owed in owed_duties(recipe, first_ended, held)} == {"ckpt_001", "ckpt_002", "ckpt_003"}
    both_ended = [*first_ended, AttemptEnded(attempt=2, outcome="completed", exit_code=0)]
    assert {owed.checkpoint for owed in owed_duties(recipe, both_ended, held)} == {"ckpt_001", "ckpt_002", "ckpt_003", "ckpt_004"}


def test_nothing_is_owed_by_a_stage_whose_incident_is_open(recipe: Recipe) -> None:
    held = holdings(*all_trained(recipe), stage1=24, stage2=4)
    opened: list[Fact] = [OPENED.model_copy(update={"stage": "stage2"}), ROLLBACK]
    assert {owed.checkpoint for owed in owed_duties(recipe, opened, held)} == {"ckpt_001", "ckpt_002", "ckpt_003"}


def test_a_stage_behind_us_is_not_trained_again_when_its_checkpoints_were_moved_away(recipe: Recipe) -> None:
    last = all_trained(recipe, DUTIES)[-1]
    assert next_action(recipe, [], holdings(last, released=True)) == Done()


def test_nothing_is_owed_while_a_spike_could_still_undo_it(recipe: Recipe) -> None:
    distance = 2 * recipe.spikes.persistence_steps
    fresh = chunk(1, "stage1", 8)
    assert owed_duties(recipe, [], holdings(fresh, stage1=8 + distance - 1)) == []
    assert owed_duties(recipe, [], holdings(fresh, stage1=8 + distance))[0] == Settle("ckpt_001", "verified")


def test_policies_say_what_is_owed(recipe: Recipe) -> None:
    third = recipe.model_copy(update={"publishing": recipe.publishing.model_copy(update={"every": 3})})
    assert "published" not in duties_of(third, chunk(1, "stage1", 8))
    assert "published" in duties_of(third, chunk(3, "stage1", 24))
    assert "published" in duties_of(third, all_trained(recipe)[-1])
    assert duties_of(recipe, replace(chunk(1, "stage1", 8), kind="rescue")) == ()
