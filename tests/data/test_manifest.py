"""K2's mix, planned at its whole size from its token counts, by the code that builds chunks."""

from pathlib import Path

import numpy as np
import pytest

from k2.data.document import DataError
from k2.data.manifest import Manifest, planned_mix, read_manifest
from k2.data.mix import Plan, chunks_of_sample, plan_mix, samples_of_chunk
from k2.recipe.load import load_recipe

RECIPE = load_recipe("k2_65b")
STAGE = RECIPE.stage("stage1")
MANIFEST = read_manifest(Path(__file__).with_name("k2_65b_tokens.toml"))

# K2 §1.1, as the card prints them
PUBLISHED = {
    "refinedweb": 47.1,
    "redpajama.wikipedia": 10.2,
    "s2orc": 8.3,
    "redpajama.book": 6.2,
    "pile-of-law": 5.9,
    "starcoder": 10.3,  # 5.1 plain, 2.6 PSM and 2.6 SPM
    "redpajama.stackexchange": 4.7,
    "redpajama.arxiv": 2.1,
    "pubmed-central": 2.0,
    "uspto": 1.1,
    "pubmed-abstracts": 1.1,
    "dm-math": 1.0,
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_mix(STAGE, {name: tokens // STAGE.context for name, tokens in MANIFEST.tokens.items()})


def test_the_plan_has_k2s_published_shares_to_their_printed_digits():
    mix = planned_mix(RECIPE, MANIFEST)
    stage = mix.stages[0]
    assert {subset.name: round(100 * subset.fraction, 1) for subset in stage.subsets} == PUBLISHED
    assert sum(subset.samples for subset in stage.subsets) == 360 * 1_919_640
    assert sum(subset.tokens for subset in stage.subsets) == 1_415_312_179_200
    assert {subset.repeat for subset in stage.subsets} == {6.0, 3.0, 1.0, 0.5}
    assert all(subset.per_chunk_max - subset.per_chunk_min <= 1 for subset in stage.subsets)


def test_a_stage_whose_subsets_are_not_all_counted_is_shown_as_declared():
    """Stage 2's sources were never published in full (K2 §1.4)."""
    assert planned_mix(RECIPE, MANIFEST).stages[1].subsets[0].declared == 0.296


def test_every_chunk_has_1_919_640_samples(plan):
    assert {sum(share.per_chunk[chunk] for share in plan.shares) for chunk in range(360)} == {1_919_640}


@pytest.mark.parametrize(("subset", "repeat", "apart"), [("redpajama.wikipedia", 6, 60), ("dm-math", 3, 120), ("redpajama.book", 3, 120)])
def test_copies_lie_a_pseudo_chunk_apart(plan, subset, repeat, apart):
    """K2 §1.2: every 60th chunk at 6x, every 120th at 3x; a sample that no chunk has room for (1 of 10,000) lacks a copy."""
    share = plan.share(subset)
    distances, complete = set(), 0
    samples = range(0, share.samples, share.samples // 500)
    for sample in samples:
        chunks = [chunk for chunk, _ in chunks_of_sample(share, 360, sample)]
        if len(chunks) == repeat:
            complete += 1
            distances |= set(np.diff(chunks).tolist())
    assert complete >= 0.98 * len(samples)
    assert distances <= {apart - 1, apart, apart + 1}


def test_half_of_starcoder_is_taken_once_and_evenly(plan):
    share = plan.share("starcoder")
    samples = np.concatenate([samples_of_chunk(share, 360, chunk)[:500] for chunk in range(0, 360, 12)])
    assert np.unique(samples).size == samples.size
    halves = [len(chunks_of_sample(share, 360, sample)) for sample in range(0, share.samples, share.samples // 2000)]
    assert set(halves) == {0, 1}
    assert 0.45 <= sum(halves) / len(halves) <= 0.55


def test_a_manifest_says_what_is_wrong_with_it(tmp_path):
    with pytest.raises(DataError, match=r"counts c4, which recipe 'k2_65b' has not"):
        planned_mix(RECIPE, Manifest(tokens={"c4": 1}))
    wrong = tmp_path / "m.toml"
    wrong.write_text("refinedweb = 5")
    with pytest.raises(DataError, match=r"write `\[tokens\]` and a line"):
        read_manifest(wrong)
    with pytest.raises(DataError, match="but its mix gives"):
        planned_mix(RECIPE, Manifest(tokens=dict.fromkeys(MANIFEST.tokens, 10**9)))
