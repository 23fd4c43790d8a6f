"""Every parallel layout against a plain single-process loop: losses, gradient norms, and the weights that remain.

Tolerances: fp32 to 2e-6 nats and 1e-5 of the norm. bf16 to 1e-3 nats: both round to 8 bits in different orders. Four steps move
a weight by about 5e-3. Where a step's gradient is no number, the next step has the learning rate of its own number.
Each world size is launched once and trains its scenarios one after another; a launch costs more than all of them.
"""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from plain_loop import Curve, Plain, synthetic_samples, train_plain
from ranks import run_script
from safetensors import safe_open
from trainer_run import MINI

from k2.checkpoint.shard import PIECES, STATE
from k2.checkpoint.state import StateReader
from k2.checkpoint.weights import read_weights
from k2.recipe.load import load_recipe
from k2.train.schedule import learning_rate

LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 1e-3}
NORM_TOLERANCE = {"fp32": 1e-5, "bf16": 5e-3}
WEIGHT_TOLERANCE = {"fp32": 5e-7, "bf16": 1.5e-3}
MOMENT_TOLERANCE = {"fp32": 1e-5, "bf16": 0.05}  # of its size


@dataclass(frozen=True)
class Scenario:
    """`layout` is written as in `pp2tp2sp` or `dp2zero3`; what is not named is one."""

    layout: str
    precision: str
    stage: str = "stage1"
    recompute: str = "none"
    span: str = "row"
    steps: int = 4
    refused_step: int | None = None  # whose gradient is no number

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
            f"faults={self._faults}",
            "stages.stage1.micro_batch_samples=1",
            "stages.stage2.batch_samples=4",
            "optimizer.clip=0.5",
        )

    @property
    def name(self) -> str:
        refused = [] if self.refused_step is None else [f"refused{self.refused_step}"]
        return "_".join((self.layout, self.precision, self.stage, self.recompute, self.span, *refused))

    @property
    def alone(self) -> str | None:
        """The scenario of one process that has trained the same."""
        same = (self.stage, self.span, self.steps, self.refused_step) == ("stage1", "row", 4, None)
        return Scenario("pp1", self.precision).name if same else None

    @property
    def _faults(self) -> str:
        if self.refused_step is None:
            return "[]"
        return f'[{{stage="{self.stage}", first_step={self.refused_step}, steps=1, kind="nan_gradients"}}]'


def in_both(*layouts: str) -> list[Scenario]:
    return [Scenario(layout, precision) for layout in layouts for precision in ("fp32", "bf16")]


ONE = [*in_both("pp1"), *(Scenario("pp1", "fp32", recompute=kind) for kind in ("selective", "full"))]
TWO = in_both("pp2", "dp2", "tp2", "tp2sp")
TWO += [Scenario("pp2", "fp32", "stage2", steps=3)]  # another context, RoPE base and schedule
TWO += [Scenario("tp2sp", "bf16", recompute=kind) for kind in ("selective", "full")]
TWO += [Scenario(layout, precision, steps=3, refused_step=2) for layout, precision in (("pp2", "fp32"), ("pp2", "bf16"), ("dp2", "fp32"))]
WHOLE = in_both("dp2zero2", "dp2zero3")  # apart: DeepSpeed takes a process that had a pipeline for one with a pipeline
WHOLE += [Scenario("dp2zero2", "fp32", steps=3, refused_step=2), Scenario("dp2zero3", "bf16", steps=3, refused_step=2)]
FOUR = in_both("pp2tp2sp", "pp2dp2", "dp2tp2sp")
FOUR += [Scenario("pp2tp2sp", "fp32", recompute="full", span="document")]
WORLDS = ((1, ONE), (2, TWO), (2, WHOLE), (4, FOUR))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with what each scenario left, by its name."""
    folder = tmp_path_factory.mktemp("trained")
    listed = [(ranks, [asdict(s) | {"name": s.name, "overrides": s.overrides, "alone": s.alone} for s in world]) for ranks, world in WORLDS]
    (folder / "scenarios.json").write_text(json.dumps(listed))
    run_script("engine_scenarios.py", str(folder))
    return folder


@cache
def plain(precision: str, stage: str, span: str, steps: int, refused_step: int | None = None) -> Plain:
    """What a single process makes of the same model and samples."""
    torch.set_num_threads(1)
    recipe = load_recipe(MINI, Scenario("pp1", precision, span=span).overrides)
    trained_stage = recipe.stage(stage)
    rates = [learning_rate(trained_stage.schedule, step, trained_stage.steps) for step in range(1, steps + 1)]
    return train_plain(recipe, trained_stage, rates, synthetic_samples(recipe, trained_stage), refused_step)


def same_by_one(scenario: Scenario) -> Plain:
    return plain(scenario.precision, scenario.stage, scenario.span, scenario.steps, scenario.refused_step)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square difference. In bf16 Adam turns the rounding of a gradient near zero into a whole step of single numbers."""
    return (one.float() - other.float()).square().mean().sqrt().item()


def named(scenarios: list[Scenario]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scenario", scenarios, ids=lambda scenario: scenario.name)


@named(ONE + TWO + WHOLE + FOUR)
def test_layouts_agree_with_a_plain_loop(trained, scenario):
    expected = same_by_one(scenario)
    curve = Curve(**json.loads((trained / scenario.name / "curve.json").read_text()))
    assert curve.losses == pytest.approx(expected.curve.losses, abs=LOSS_TOLERANCE[scenario.precision])
    assert curve.grad_norms == pytest.approx(expected.curve.grad_norms, rel=NORM_TOLERANCE[scenario.precision])
    masters = read_weights(trained / scenario.name)
    left = {name: master.to(expected.weights[name].dtype) for name, master in masters.items()}  # as it computes
    assert left.keys() == expected.weights.keys()
    assert max(distance(left[name], expected.weights[name]) for name in left) <= WEIGHT_TOLERANCE[scenario.precision]


@named(ONE + TWO + WHOLE + FOUR)
def test_the_gradient_of_every_parameter_has_the_plain_loops_size(trained, scenario):
    """One that is summed twice hardly shows elsewhere: of a norm it is a small part of the whole, and Adam divides by its size."""
    expected = same_by_one(scenario).first_moments
    with StateReader(trained / scenario.name) as state:
        left = {name: torch.from_numpy(state.whole(name, "exp_avg")) for name in expected}
    off = [distance(left[name], first) / distance(first, torch.zeros(())) for name, first in expected.items()]
    assert max(off) <= MOMENT_TOLERANCE[scenario.precision]


@named(ONE + TWO + WHOLE + FOUR)
def test_what_was_saved_goes_on_to_the_same_bits(trained, scenario):
    after = json.loads((trained / f"{scenario.name}.json").read_text())
    assert after["resumed"] == after["unbroken"]


@named([s for s in TWO + WHOLE + FOUR if s.alone])
def test_every_layout_goes_on_from_what_one_process_saved(trained, scenario):
    expected = plain(scenario.precision, scenario.stage, scenario.span, scenario.steps + 1).curve
    loss, norm = json.loads((trained / f"{scenario.name}.json").read_text())["alone"]
    assert loss == pytest.approx(expected.losses[-1], abs=LOSS_TOLERANCE[scenario.precision])
    assert norm == pytest.approx(expected.grad_norms[-1], rel=NORM_TOLERANCE[scenario.precision])


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
    assert min(plain("fp32", "stage1", "row", 4).curve.grad_norms) > load_recipe(MINI, ONE[0].overrides).optimizer.clip
