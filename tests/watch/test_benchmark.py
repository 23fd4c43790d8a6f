"""The published rules behave as published, curves are counted by the written rule, and the figures hold on a sample."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from spike_families import LONG, calm

from flows.cli import main
from k2.recipe.spikes import Spikes
from k2.watch.benchmark import contenders, empty_score, is_caught_strictly, ours, run_curves, run_families, was_rolled_back
from k2.watch.comparison import compare
from k2.watch.curves import Rise, read_folder
from k2.watch.families import TINY
from k2.watch.published import kill_loss_spike, skip_step, spike_score, spiky_loss, three_ema, z_score, zclip
from k2.watch.replay import CurveRefused


def flat(length: int = 1400) -> np.ndarray:
    return 3.0 + np.random.default_rng(0).normal(0, 0.02, length)


def test_one_nan_makes_skip_step_skip_129_steps() -> None:
    loss = flat()
    loss[700] = np.nan
    assert np.flatnonzero(skip_step(loss)).tolist() == list(range(700, 829))


def test_skip_steps_window_is_contaminated_by_a_long_spike() -> None:
    loss = flat()
    loss[700:710] += 3.6
    assert 1 <= np.sum(skip_step(loss)[700:710]) < 10


def test_an_outlier_inside_its_own_window_reaches_a_z_of_eleven_at_most() -> None:
    loss = flat()
    loss[700] += 1000.0
    window = loss[573:701]
    assert 10 < (loss[700] - window.mean()) / window.std() < 11.3
    assert np.flatnonzero(z_score(loss)).tolist() == [700]


def test_rules_that_need_a_multiple_of_the_loss_see_no_spike_of_a_language_model() -> None:
    loss = flat()
    loss[1200:] += 1.0
    assert not kill_loss_spike(loss).any()
    assert not spiky_loss(loss).any()
    assert not three_ema(loss).any()
    assert spike_score(loss)[1200:1206].all()
    assert zclip(loss)[1200]


def test_five_in_a_row_at_twice_the_mean_kill() -> None:
    loss = flat()
    loss[700:704] = 7.0
    loss[900:905] = 7.0
    assert np.flatnonzero(kill_loss_spike(loss)).tolist() == [904]


@pytest.mark.parametrize("rule", [skip_step, spike_score, kill_loss_spike, spiky_loss, three_ema, zclip, z_score])
def test_a_short_curve_is_no_error(rule) -> None:
    for length in (30, 99, 127, 128, 129, 1000, 1001):
        assert len(rule(flat(length))) == length


def test_the_counting_rule() -> None:
    rise = Rise(10_000, 0.2, 900)
    assert [is_caught_strictly(rise, [(onset, onset + 100)]) for onset in (9699, 9700, 10_800, 10_801)] == [False, True, True, False]
    assert [was_rolled_back(rise, [(verdict - 99, verdict)]) for verdict in (4999, 5000, 10_000, 10_001)] == [False, True, True, False]


@pytest.mark.parametrize("scale", [LONG, TINY], ids=["persistence 100", "persistence 12"])
def test_the_figures_on_a_sample_of_the_families(scale) -> None:
    detectors = {"k2": ours(Spikes(persistence_steps=scale.persistence_steps))}
    row = run_families(detectors, scale, range(6))["k2"].row()
    assert (row["recall_synthetic"], row["benign_escalated"], row["bad_resume_steps"]) == (1.0, 0.0, 3)
    assert row["onset_p95"] <= 3
    assert row["verdict_p95"] <= scale.steps(116) + 2
    assert row["creep_p95"] <= scale.steps(300)


def write_curves(folder: Path) -> None:
    """A clean curve, one with a rise, and one that was resumed badly."""
    clean = calm(LONG, np.random.default_rng(0), 3000)
    rise, resumed = calm(LONG, np.random.default_rng(1), 3000), calm(LONG, np.random.default_rng(2), 3000)
    rise[1500:] += 0.2
    resumed[2001:] += 8.7
    for name, loss in {"clean": clean, "rise": rise, "x_bad_resume_at_2001": resumed}.items():
        with gzip.open(folder / f"{name}.csv.gz", "wt") as file:
            file.write("step,loss\n" + "".join(f"{i + 1},{x}\n" for i, x in enumerate(loss)))
    (folder / "sustained_rises.csv").write_text("curve,step,rise_nats,persists_steps\nrise,1501,0.2,1499\nrise,2500,0.05,400\n")


def test_a_folder_of_curves_is_counted_by_its_labels(tmp_path: Path) -> None:
    write_curves(tmp_path)
    scores = {name: empty_score() for name in contenders(Spikes())}
    run_curves(contenders(Spikes()), read_folder(tmp_path), scores)
    found = scores["k2"]
    assert (found.rises, found.caught, found.caught_strictly) == (1, 1, 1)
    assert (found.clean_steps, found.clean_actions) == (3000, 0)
    assert (found.bad_resumes, found.bad_resume_steps) == (1, [3])
    assert scores["KillLossSpike 2x"].caught == 0


def test_without_labels_nothing_counts_as_clean(tmp_path: Path) -> None:
    write_curves(tmp_path)
    (tmp_path / "sustained_rises.csv").unlink()
    recorded = compare(Spikes(), range(1), tmp_path).recorded
    assert recorded is not None
    assert (recorded["k2"].clean_steps, recorded["k2"].rises) == (0, 0)


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(CurveRefused, match="holds no curves"):
        list(read_folder(tmp_path))
    write_curves(tmp_path)
    (tmp_path / "sustained_rises.csv").write_text("curve,step\nrise,1501\n")
    with pytest.raises(CurveRefused, match=r"sustained_rises.csv, line 2: KeyError\('rise_nats'\)"):
        list(read_folder(tmp_path))


def test_the_command_prints_the_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_curves(tmp_path)
    assert main(["spikes", "benchmark", str(tmp_path), "--count", "1"]) == 0
    text = capsys.readouterr().out
    assert "recorded curves, 3,000 clean steps" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("k2", "SkipStep"))] == ["k2", "SkipStep"] * 2
    assert main(["spikes", "benchmark", "--count", "1", "--recipe", "k2_tiny", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["persistence_steps"] == 12
    assert shown["synthetic"]["k2"]["recall_synthetic"] == 1.0
    assert shown["recorded"] is None
