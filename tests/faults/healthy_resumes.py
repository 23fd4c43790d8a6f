"""Resume again and again from checkpoints whose following steps are on record: `healthy_resumes.py --count 100`.

Each resume of a healthy state must pass the canary: no false alarm. With `--damage` the optimizer's state is then spoiled on every
resume, in three ways and at two places in turn, and each must be refused by its third step.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "train"))
import deepspeed.pipe  # noqa: F401 (it and the next before the ranks fork)
import torch._inductor.config  # noqa: F401
import torch.distributed as dist
from ranks import in_ranks
from trainer_run import TrainerRun, new_run

from k2.data.loader import SampleReader
from k2.recipe.place import Place
from k2.run import injection
from k2.run.control import read_bad_resume
from k2.run.durable import sync_folder
from k2.run.holdings import held_checkpoints
from k2.run.layout import RunLayout
from k2.run.ledger import AttemptStarted, append_facts, ledger_head, read_facts
from k2.run.receipt import read_receipt
from k2.run.records import branches
from k2.train.engine import Engine, connect
from k2.train.loop import Loop, Segment
from k2.train.resuming import BadResumeFound
from k2.watch.canary import recorded_steps

LAYOUTS = (("layout.pipeline=2",), ("layout.pipeline=1", "layout.data=2", "layout.precision='bf16'"))
WAYS = [(point, way) for point in ("resume.after_optim", "resume.checked") for way in ("lose", "zero", "reset")]
PLACE = Place(device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damage", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        prepared = [new_run(Path(folder) / f"prepared_{number}" / "mini", *layout) for number, layout in enumerate(LAYOUTS)]
        tally = Path(folder) / "tally.json"
        for number, run in enumerate(prepared):
            in_ranks(2, partial(resume_often, run, Path(folder), asked.count // 2, asked.seed + number, asked.damage, tally))
        found = Counter(json.loads(line) for line in tally.read_text().splitlines())
    print(*(f"{times:5}  {what}" for what, times in sorted(found.items())), sep="\n")
    wanted = "refused by the third step" if asked.damage else "went on"
    sys.exit(0 if set(found) == {wanted} else 1)


def resume_often(prepared: TrainerRun, root: Path, count: int, seed: int, damage: bool, tally: Path) -> None:
    """On one rank of a world that stays: every resume builds its engine anew."""
    chance = random.Random(seed)
    connect(prepared.recipe, PLACE)
    for number in range(count):
        layout = RunLayout(root / f"case_{seed}_{number}" / "mini")
        if dist.get_rank() == 0:
            shutil.copytree(prepared.layout.root, layout.root, copy_function=os.link, ignore=shutil.ignore_patterns("ledger.jsonl"))
            shutil.copy(prepared.layout.ledger, layout.ledger)
        dist.barrier()
        last = chance.randrange(8, 20)
        train(prepared, layout, 1, None, last, None)
        start = chance.choice([c.name for c in held_checkpoints(prepared.recipe, layout) if 4 <= c.step <= last - 3])
        crash_back_to(prepared, layout, start)
        outcome = train(prepared, layout, 2, start, last + 4, WAYS[number % len(WAYS)] if damage else None)
        if dist.get_rank() == 0:
            with tally.open("a") as file:
                file.write(json.dumps(outcome) + "\n")
            shutil.rmtree(layout.root)
        dist.barrier()


def train(prepared: TrainerRun, layout: RunLayout, attempt: int, start: str | None, last: int, fault: tuple[str, str] | None) -> str:
    """One attempt through the trainer's own loop; how it went."""
    recipe, stage = prepared.recipe, prepared.recipe.stage("stage1")
    first = read_receipt(layout.checkpoint(start)).facts["step"] + 1 if start else 1
    if dist.get_rank() == 0:
        append_facts(layout.ledger, AttemptStarted(attempt=attempt, stage="stage1", checkpoint=start, first_step=first))
        layout.metrics("stage1", attempt).parent.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    facts = read_facts(layout.ledger)
    recorded = recorded_steps(facts, branches(layout, facts, "stage1"), "stage1", first, 1) if start else {}
    segment = Segment(recipe, layout, stage, attempt, first, start, ledger_head(layout.ledger), PLACE, last, recorded)
    arm(fault)
    records = layout.metrics("stage1", attempt).open("x", buffering=1) if dist.get_rank() == 0 else None
    try:
        Loop(segment, Engine(recipe, stage), SampleReader(recipe, layout, stage, facts), records).run(lambda: False)
    except BadResumeFound:
        said = read_bad_resume(layout, attempt)
        return "refused by the third step" if said is None or said.step <= first + 2 else "refused late"
    return "went on"


def arm(fault: tuple[str, str] | None) -> None:
    injection._armed = None  # a process reads it once
    os.environ.pop(injection.VARIABLE, None)
    if fault is not None:
        os.environ[injection.VARIABLE] = json.dumps([{"at": fault[0], "do": fault[1]}])


def crash_back_to(prepared: TrainerRun, layout: RunLayout, name: str) -> None:
    """As if the attempt had died before it saved anything after that checkpoint."""
    if dist.get_rank() == 0:
        step = read_receipt(layout.checkpoint(name)).facts["step"]
        for checkpoint in held_checkpoints(prepared.recipe, layout):
            if checkpoint.step > step:
                shutil.rmtree(layout.checkpoint(checkpoint.name))
        sync_folder(layout.checkpoints)
    dist.barrier()


if __name__ == "__main__":
    main()
