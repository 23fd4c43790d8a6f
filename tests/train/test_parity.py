"""Every parallel layout against a plain single-process loop: losses, gradient norms, and the weights that remain.

Tolerances: fp32 to 2e-6 nats and 1e-5 of the norm. bf16 to 1e-3 nats: both round to 8 bits in different orders. Four steps move
a weight by about 5e-3.
Each world size is launched once and trains its scenarios one after another; a launch costs more than all of them.
"""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from plain_loop import Curve, synthetic_samples, train_plain
from ranks import run_script
from safetensors import safe_open
from trainer_run import MINI

from k2.checkpoint.shard import PIECES, STATE
from k2.checkpoint.weights import read_weights
from k2.recipe.load import load_recipe
from k2.train.schedule import learning_rate

LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 1e-3}
NORM_TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}
WEIGHT_TOLERANCE = {"fp32": 5e-7, "bf16": 1.5e-3}


@dataclass(frozen=True)
class Scenario:
    """`layout` is written as in `pp2tp2sp` or `dp2zero3`; what is not named is one."""

    layout: str
    precision: str
    stage: str = "stage1"
    recompute: str = "none"
    span: str = "row"
    steps: int = 4

    def degree(self, axis: str) -> int:
        return int(self.layout.partition(axis)[2][:1] or 1)

    @property
    def overrides(self) -> tuple[str, ...]:
        return (
            f"layout.pipeline={self.degree('pp')}",
            f"layout.data={self.degree('dp')}",
            f"layout.tensor={self.degree('tp')}",
            f"layout.sequence_parallel={str(self.layout.endswith('sp')).lower()}",
            f"layout.zero_stage={self.degree('zero')}",
            f'layout.precision="{self.precision}"',
            f'layout.recompute="{self.recompute}"',
            f'stages.stage1.attention_span="{self.span}"',
            "stages.stage1.micro_batch_samples=1",
            "stages.stage2.batch_samples=4",
            "optimizer.clip=0.5",
        )

    @property
    def name(self) -> str:
        return "_".join((self.layout, self.precision, self.stage, self.recompute, self.span))


def in_both(*layouts: str) -> list[Scenario]:
    return [Scenario(layout, precision) for layout in layouts for precision in ("fp32", "bf16")]


ONE = [*in_both("pp1"), *(Scenario("pp1", "fp32", recompute=kind) for kind in ("selective", "full"))]
TWO = in_both("pp2", "dp2", "tp2", "tp2sp")
TWO += [Scenario("pp2", "fp32", "stage2", steps=3)]  # another context, RoPE base and schedule
TWO += [Scenario("tp2sp", "bf16", recompute=kind) for kind in ("selective", "full")]
WHOLE = in_both("dp2zero2", "dp2zero3")  # apart: DeepSpeed takes a process that had a pipeline for one with a pipeline
FOUR = in_both("pp2tp2sp", "pp2dp2", "dp2tp2sp")
FOUR += [Scenario("pp2tp2sp", "fp32", recompute="full", span="document")]
WORLDS = ((1, ONE), (2, TWO), (2, WHOLE), (4, FOUR))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with what each scenario left, by its name."""
    folder = tmp_path_factory.mktemp("trained")
    listed = [(ranks, [asdict(s) | {"name": s.name, "overrides": s.overrides} for s in world]) for ranks, world in WORLDS]
    (folder / "scenarios.json").write_text(json.dumps(listed))
    run_script("engine_scenarios.py", str(folder))
    return folder


@cache
def plain(precision: str, stage: str, span: str, steps: int) -> tuple[Curve, dict[str, torch.Tensor]]:
    """What a single process makes of the same model and samples."""
    torch.set_num_threads(1)
    recipe = load_recipe(MINI, Scenario("pp1", precision, span=span).overrides)
    trained_stage = recipe.stage(stage)
    rates = [learning_rate(trained_stage.schedule, step, trained_stage.steps) for step in range(1, steps + 1)]
    return train_plain(recipe, trained_stage, rates, synthetic_samples(recipe, trained_stage))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square difference. In bf16 Adam turns the rounding of a gradient near zero into a whole step of single numbers."""
    return (one.float() - other.float()).square().mean().sqrt().item()


def named(scenarios: list[Scenario]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario.name)


@named(ONE + TWO + WHOLE + FOUR)
def test_layouts_agree_with_a_plain_loop(trained, scenario):
    expected, weights = plain(scenario.precision, scenario.stage, scenario.span, scenario.steps)
    curve = Curve(**json.loads((trained / scenario.name / "curve.json").read_text()))
    assert curve.losses == pytest.approx(expected.losses, abs=LOSS_TOLERANCE[scenario.precision])
    assert curve.grad_norms == pytest.approx(expected.grad_norms, rel=NORM_TOLERANCE[scenario.precision])
    left = {name: master.to(weights[name].dtype) for name, master in read_weights(trained / scenario.name).items()}  # as it computes
    assert left.keys() == weights.keys()
    assert max(distance(left[name], weights[name]) for name in weights) <= WEIGHT_TOLERANCE[scenario.precision]


@named([s for s in TWO + FOUR if s.degree("tp") > 1])
def test_what_tensor_ranks_hold_in_common_stays_common(trained, scenario):
    """Copies whose gradients are not summed drift apart, and the loss hardly shows it."""
    copies = defaultdict(list)
    for path in (trained / scenario.name / STATE).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in file.keys() if "norm" in name and name.endswith("/master")):  # noqa: SIM118
                start = json.loads(file.metadata()[PIECES])[name.removesuffix("/master")]["start"]
                copies[name, start].append(file.get_tensor(name))
    assert len({name for name, _ in copies}) == 5  # two blocks have two each, and the last
    assert all(len(held) == 2 and torch.equal(*held) for held in copies.values())


def test_the_reference_clips_in_these_scenarios():
    """Otherwise the comparison would not see a trainer that never clips."""
    assert min(plain("fp32", "stage1", "row", 4)[0].grad_norms) > load_recipe(MINI, ONE[0].overrides).optimizer.clip
