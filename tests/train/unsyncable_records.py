"""Run under torchrun on one rank: a segment whose record file is a pipe, which takes lines and cannot be forced to a disk.

Argument: the folder of a new run; what the loop said is printed.
"""

import os
import sys
from pathlib import Path

from trainer_run import new_run

from k2.checkpoint.agreement import AgreedProblem
from k2.data.loader import SampleReader
from k2.recipe.place import Place
from k2.run.ledger import ledger_head
from k2.train.engine import Engine, connect
from k2.train.loop import Loop, Segment


def main() -> None:
    run = new_run(Path(sys.argv[1]), "layout.pipeline=1")
    stage = run.recipe.stage("stage1")
    connect(run.recipe, Place(device="cpu"))
    segment = Segment(run.recipe, run.layout, stage, 1, 1, None, ledger_head(run.layout.ledger))
    _, end = os.pipe()
    with os.fdopen(end, "w", buffering=1) as records:
        loop = Loop(segment, Engine(run.recipe, stage), SampleReader(run.recipe, run.layout, stage, []), records)
        try:
            loop.run(lambda: False)
        except AgreedProblem as problem:
            print(problem)


if __name__ == "__main__":
    main()
