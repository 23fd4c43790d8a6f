"""What training has seen, both ways, and equal to the bytes that were trained on."""

import pytest

from k2.data.encode import document_tokens
from k2.data.loader import SampleReader
from k2.data.seen import accepted, attempted, seen_by_step, steps_of_document
from k2.run.ledger import AttemptStarted, ChunkDeferred, Fact, SamplesSkipped, StepsSkipped
from k2.run.records import StepRecord
from k2.tokenizer import Tokenizer

# Trained to step 16, then an incident: steps 11 and 12 are skipped, the chunk at position 1 goes to the end, and training goes on
# from step 8 to the end of the stage.
FACTS: list[Fact] = [
    AttemptStarted(attempt=1, stage="stage1", checkpoint=None, first_step=1),
    StepsSkipped(stage="stage1", first_step=11, last_step=12, who="policy", why="spike"),
    ChunkDeferred(stage="stage1", position=1, who="policy", why="spike"),
    AttemptStarted(attempt=2, stage="stage1", checkpoint="ckpt_001", first_step=9),
    AttemptStarted(attempt=3, stage="stage2", checkpoint="ckpt_003", first_step=1),
]
TRAINED = {("stage1", 1): range(1, 17), ("stage1", 2): [*range(9, 11), *range(13, 25)], ("stage2", 3): range(1, 4)}


@pytest.fixture
def trained(own_copy):
    """The copy with the records of three attempts; stage 2 is at step 3 of 4."""
    for (stage, attempt), steps in TRAINED.items():
        path = own_copy.layout.metrics(stage, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(StepRecord(attempt, stage, step, 3.0, 1.0, 1e-3, step, 0.1).line() for step in steps))
    return own_copy


def of_step(prepared, stage, step, facts=FACTS):
    return list(seen_by_step(prepared.recipe, prepared.layout, accepted(prepared.recipe, prepared.layout, facts), stage, step))


def every_sight(prepared, lineages=None):
    lineages = lineages or accepted(prepared.recipe, prepared.layout, FACTS)
    return [
        sight
        for stage in prepared.recipe.stages
        for step in range(1, stage.steps + 1)
        for sight in seen_by_step(prepared.recipe, prepared.layout, lineages, stage, step)
    ]


def every_way_back(prepared, documents, lineages=None):
    lineages = lineages or accepted(prepared.recipe, prepared.layout, FACTS)
    return [s for d in documents for s in steps_of_document(prepared.recipe, prepared.layout, lineages, d)]


def test_the_documents_of_a_step_are_the_bytes_it_was_trained_on(trained):
    tokenizer = Tokenizer(trained.layout.tokenizer)
    ids = {
        document.id: document_tokens(tokenizer, trained.recipe, subset, document)
        for subset in trained.recipe.data.subsets
        for document in trained.documents(subset.name)
    }
    for stage in trained.recipe.stages:
        reader = SampleReader(trained.recipe, trained.layout, stage, FACTS)
        for step in [s for s in range(1, stage.steps + 1) if (stage.name, s) not in {("stage1", 11), ("stage1", 12), ("stage2", 4)}]:
            sights = of_step(trained, stage, step)
            first_row = (step - 1) % stage.steps_per_chunk * stage.batch_samples
            rebuilt = [[] for _ in range(stage.batch_samples)]
            for sight in sights:
                assert (sight.chunk, sight.position) == (reader.order[sight.position], (step - 1) // stage.steps_per_chunk)
                rebuilt[sight.row - first_row] += ids[sight.document][sight.token_start : sight.token_end]
            assert rebuilt == reader.step(step).tolist()


def test_both_ways_agree(trained):
    forward = every_sight(trained)
    documents = {sight.document for sight in forward}
    backward = every_way_back(trained, documents)
    assert len(backward) == len(set(backward))
    assert set(backward) == set(forward)
    assert len(documents) > 30


def test_skipped_and_untrained_steps_have_seen_nothing(trained):
    stage1, stage2 = trained.recipe.stages
    for stage, step in ((stage1, 11), (stage1, 12), (stage2, 4)):
        assert of_step(trained, stage, step) == []
    assert {s.step for s in every_sight(trained) if s.stage == "stage1"} == {*range(1, 11), *range(13, 25)}


def test_a_skip_counts_from_the_moment_it_is_in_the_ledger(trained):
    """Between the decision and the next attempt the abandoned one's records still stand."""
    stage = trained.recipe.stages[0]
    assert of_step(trained, stage, 11, FACTS[:1]) != []
    assert of_step(trained, stage, 11, FACTS[:2]) == []


def test_before_training_nothing_was_seen(mini):
    assert of_step(mini, mini.recipe.stages[0], 1, []) == []


def test_unknown_and_held_out_documents_are_said_to_be_so(trained):
    with pytest.raises(ValueError, match=r"no document 'nothing' is trained on .*held out"):
        every_way_back(trained, ["nothing"])


def test_a_step_that_does_not_exist_is_refused(trained):
    with pytest.raises(ValueError, match="its steps are 1 to 24"):
        of_step(trained, trained.recipe.stages[0], 25)


def test_what_a_rollback_gave_up_can_be_asked_for_by_its_attempt(trained):
    """Attempt 1 trained chunk 1 at position 1; by the order that its rollback left, chunk 2 stands there."""
    given_up = attempted(trained.recipe, trained.layout, FACTS, 1)
    forward = every_sight(trained, given_up)
    assert {s.step for s in forward} == set(range(1, 17))
    assert {(s.position, s.chunk, s.attempt) for s in forward} == {(0, 0, 1), (1, 1, 1)}
    assert {(s.position, s.chunk, s.attempt) for s in every_sight(trained) if s.stage == "stage1"} == {(0, 0, 1), (1, 2, 2), (2, 1, 2)}
    assert set(every_way_back(trained, {s.document for s in forward}, given_up)) == set(forward)
    with pytest.raises(ValueError, match="had no attempt 9"):
        attempted(trained.recipe, trained.layout, FACTS, 9)


@pytest.mark.parametrize(("checkpoint", "seen"), [("ckpt_001", {"stage1": 8}), ("ckpt_002", {"stage1": 16}), ("ckpt_003", {"stage1": 24})])
def test_a_checkpoint_has_seen_what_was_trained_up_to_it(trained, checkpoint, seen):
    lineages = accepted(trained.recipe, trained.layout, FACTS, checkpoint)
    sights = every_sight(trained, lineages)
    expected = {(s.stage, s.step) for s in every_sight(trained) if s.step <= seen.get(s.stage, 0)}
    assert {(s.stage, s.step) for s in sights} == expected
    assert set(every_way_back(trained, {s.document for s in sights}, lineages)) == set(sights)


def test_a_checkpoint_that_the_run_cannot_have_is_refused(trained):
    with pytest.raises(ValueError, match=r"'ckpt_005' is no checkpoint of .* one of ckpt_001 to ckpt_004"):
        accepted(trained.recipe, trained.layout, FACTS, "ckpt_005")


def test_skipped_rows_are_seen_by_nobody_and_their_stand_ins_twice(trained):
    rows = SamplesSkipped(stage="stage1", chunk=0, first_row=2, last_row=2, who="user", why="poison")
    facts = [rows, *FACTS]
    lineages = accepted(trained.recipe, trained.layout, facts)
    sights = list(seen_by_step(trained.recipe, trained.layout, lineages, trained.recipe.stages[0], 1))
    assert {(s.row, s.times) for s in sights} == {(0, 2), (1, 1), (3, 1)}
    forward = every_sight(trained, lineages)
    assert set(every_way_back(trained, {s.document for s in every_sight(trained)}, lineages)) == set(forward)
    reader = SampleReader(trained.recipe, trained.layout, trained.recipe.stages[0], facts)
    plain = SampleReader(trained.recipe, trained.layout, trained.recipe.stages[0], FACTS)
    assert reader.step(1).tolist() == plain.step(1)[[0, 1, 0, 3]].tolist()
