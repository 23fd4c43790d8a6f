"""Losses and gradient norms of DeepSpeed's layouts against a plain single-process loop.

Tolerances: fp32 to 2e-6 nats and 1e-5 of the norm. bf16 to 1e-3 nats: both round to 8 bits in different orders.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from plain_loop import Curve, synthetic_samples, train_plain
from trainer_run import MINI

from k2.recipe.load import load_recipe
from k2.train.schedule import learning_rate

STEPS = 8
LAYOUTS = {"1 rank": (1, 1), "2 pipeline ranks": (2, 1), "2 data ranks": (1, 2)}
LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 1e-3}
NORM_TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}


@dataclass(frozen=True)
class Scenario:
    layout: str
    precision: str
    stage: str = "stage1"

    @property
    def overrides(self) -> tuple[str, ...]:
        pipeline, data = LAYOUTS[self.layout]
        return (
            f"layout.pipeline={pipeline}",
            f"layout.data={data}",
            f'layout.precision="{self.precision}"',
            "stages.stage2.batch_samples=4",
        )

    @property
    def name(self) -> str:
        return f"{self.layout} {self.precision} {self.stage}"


def run_scenarios(folder: Path, ranks: int, scenarios: list[Scenario]) -> dict[str, Curve]:
    asked, output = folder / "scenarios.json", folder / "curves.json"
    listed = [{"name": s.name, "overrides": s.overrides, "stage": s.stage, "steps": steps_of(s)} for s in scenarios]
    asked.write_text(json.dumps({"output": str(output), "scenarios": listed}))
    script = Path(__file__).with_name("engine_scenarios.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*launcher, str(script), str(asked)], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return {name: Curve(**curve) for name, curve in json.loads(output.read_text()).items()}


def steps_of(scenario: Scenario) -> int:
    return STEPS if scenario.stage == "stage1" else 3


ONE = [Scenario("1 rank", precision) for precision in ("fp32", "bf16")]
TWO = [Scenario(layout, precision) for layout in ("2 pipeline ranks", "2 data ranks") for precision in ("fp32", "bf16")]
TWO += [Scenario("2 pipeline ranks", "fp32", "stage2")]  # another context, RoPE base and schedule


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    return run_scenarios(tmp_path_factory.mktemp("one"), 1, ONE) | run_scenarios(tmp_path_factory.mktemp("two"), 2, TWO)


@pytest.mark.parametrize("scenario", ONE + TWO, ids=lambda scenario: scenario.name)
def test_layouts_agree_with_a_plain_loop(curves, scenario):
    torch.set_num_threads(1)
    recipe = load_recipe(MINI, scenario.overrides)
    stage = recipe.stage(scenario.stage)
    rates = [learning_rate(stage.schedule, step, stage.steps) for step in range(1, steps_of(scenario) + 1)]
    plain, trained = train_plain(recipe, stage, rates, synthetic_samples(recipe, stage)), curves[scenario.name]
    assert trained.losses == pytest.approx(plain.losses, abs=LOSS_TOLERANCE[scenario.precision])
    assert trained.grad_norms == pytest.approx(plain.grad_norms, rel=NORM_TOLERANCE[scenario.precision])


def test_the_reference_clips_in_these_scenarios():
    """Otherwise the comparison would not see a trainer that never clips."""
    recipe = load_recipe(MINI, ("optimizer.clip=0.5",))
    stage = recipe.stage("stage1")
    plain = train_plain(recipe, stage, [1e-3] * 2, synthetic_samples(recipe, stage))
    assert min(plain.grad_norms) > 0.5
