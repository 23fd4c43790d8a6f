"""The trainer's process: `python -m k2.train RUN_ROOT --stage S --attempt N --first-step K [--checkpoint NAME]`, under torchrun.

It trains one segment and ends with 0 when the stage is complete or a stop was asked for, else with 1 and one paragraph
on standard error. SIGTERM asks for a stop.
"""

import argparse
import errno
import os
import signal
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import torch
import torch.distributed as dist

from k2.checkpoint.agreement import AgreedProblem, same_everywhere, together
from k2.data.loader import SampleReader
from k2.recipe.world import in_world
from k2.run.code import code_digest
from k2.run.durable import sync_folder
from k2.run.injection import ATTEMPT
from k2.run.layout import RunLayout
from k2.run.ledger import Fact, ledger_head, read_facts
from k2.run.opening import open_run
from k2.run.receipt import find_receipt
from k2.run.records import StepRecord, branches
from k2.run.tempering import tempered
from k2.train.engine import Engine, connect
from k2.train.loop import Loop, Segment, check_segment
from k2.watch.canary import recorded_steps
from k2.watch.keeping import detector_at
from k2.watch.spikes import Detector

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Termination:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def train(arguments: argparse.Namespace) -> None:
    """Train the segment that the arguments describe."""
    termination = Termination()
    os.environ[ATTEMPT] = str(arguments.attempt)
    layout = RunLayout(arguments.run_root)
    recipe, place = open_run(layout)
    stage = recipe.stage(arguments.stage)
    facts = read_facts(layout.ledger)
    head = ledger_head(layout.ledger)
    segment = Segment(
        recipe, layout, stage, arguments.attempt, arguments.first_step, arguments.checkpoint, head, place, arguments.last_step,
        _recorded(layout, facts, arguments), tempered(facts, stage.name), arguments.probe,
    )  # fmt: skip
    trained = in_world(recipe, place.world)
    connect(trained, place)
    together(lambda: check_segment(segment))
    reader = together(lambda: SampleReader(recipe, layout, stage, facts))
    _agree_on_what_is_trained(segment, reader)
    engine = Engine(trained, trained.stage(stage.name), place)
    with ExitStack() as files:
        loop = Loop(segment, engine, reader, _open_records(segment, files), _detector(segment, facts))
        _say(f"attempt {segment.attempt} trains {stage.name} from step {segment.first_step} of {stage.steps}")
        ended = loop.run(lambda: termination.asked)
    _say(f"attempt {segment.attempt} {ended}")
    dist.barrier()
    dist.destroy_process_group()


def _recorded(layout: RunLayout, facts: list[Fact], arguments: argparse.Namespace) -> dict[int, StepRecord]:
    """What earlier attempts recorded of the steps that come now: the canary's measure. A probe is to tell, not to refuse."""
    if arguments.checkpoint is None or arguments.probe is not None:
        return {}
    receipt = find_receipt(layout.checkpoint(arguments.checkpoint))
    by_attempt = None if receipt is None else receipt.facts.get("attempt")
    earlier = branches(layout, facts, arguments.stage)
    return recorded_steps(facts, earlier, arguments.stage, arguments.first_step, by_attempt)


def _agree_on_what_is_trained(segment: Segment, reader: SampleReader) -> None:
    """Each rank has read the ledger and the records for itself: hosts that differ would train on different rows, or fall out of step."""
    recorded = [(step, record.loss) for step, record in sorted(segment.recorded.items())]
    same_everywhere(
        {
            "the code of k2": code_digest(),
            "the version of torch": torch.__version__,
            "the order of the data": repr(reader.sequence),
            "what is tempered": repr(segment.tempered),
            "what earlier attempts recorded": repr(recorded),
        }
    )


def _open_records(segment: Segment, files: ExitStack) -> TextIO | None:
    """The attempt's record file, a line at a time; on global rank 0 alone."""
    if dist.get_rank() != 0:
        return None
    path = segment.records
    path.parent.mkdir(parents=True, exist_ok=True)
    file = files.enter_context(path.open("x", encoding="utf-8", buffering=1))
    for folder in (path.parent, path.parent.parent, segment.layout.root):  # the entries of whatever was made just now
        sync_folder(folder)
    return file


def _detector(segment: Segment, facts: list[Fact]) -> Detector | None:
    """The stage's detector as it stood where the segment begins; on global rank 0 alone. It is for checkpoints, and a probe saves none."""
    if dist.get_rank() != 0 or segment.probe is not None:
        return None
    return detector_at(segment.recipe, segment.layout, facts, segment.stage.name, segment.first_step, segment.checkpoint)


def _say(text: str) -> None:
    if dist.get_rank() == 0:
        print(f"k2.train: {text}", file=sys.stderr, flush=True)


def _explain(error: Exception) -> None:
    """One paragraph for a refusal, once a machine if all ranks share it; a traceback for what nobody foresaw."""
    rank = os.environ.get("RANK", "0")
    shared = isinstance(error, AgreedProblem) or not dist.is_initialized()
    if not isinstance(error, ValueError | OSError):
        traceback.print_exception(error)
    elif not shared or os.environ.get("LOCAL_RANK", "0") == "0":
        hint = (
            ". Make room and resume the run: the checkpoints are untouched" if isinstance(error, OSError) and error.errno in NO_ROOM else ""
        )
        verb = " refuses" if isinstance(error, ValueError) else ""  # the driver tries the world's failures again, a refusal not
        print(f"k2.train, rank {rank}{verb}: {error}{hint}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m k2.train", description="Train one segment of a run. Start it under torchrun.")
    parser.add_argument("run_root", type=Path)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--first-step", type=int, required=True)
    parser.add_argument("--last-step", type=int, help="save and stop after this step; none: at the stage's end")
    parser.add_argument("--probe", type=int, help="train the steps again for that incident: records apart, nothing saved")
    parser.add_argument("--checkpoint", help="name of the checkpoint to start from; none: from scratch")
    return parser.parse_args()


def main() -> None:
    try:
        train(_arguments())
    except Exception as error:
        _explain(error)
        _leave(1)  # politely it would wait for ranks that are gone
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End the process at once. Python taking itself apart aborted a rank now and then ("terminate called without an active exception",
    seen with ZeRO 3 and torch 2.13), which made a crash of a segment that was trained and saved."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
