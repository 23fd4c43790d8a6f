"""How much the detector's verdicts on recorded curves depend on its constants: each moved by a share, one at a time.

    python benchmarks/spike_sensitivity.py DIR [--share 0.2] [--only onset_z,level_nats]

Prints, for each constant and direction, the rises caught by both counting rules, and the malignant verdicts on clean curves.
"""

import argparse
from pathlib import Path

from k2.recipe.spikes import Spikes
from k2.watch.benchmark import empty_score, ours, run_curves
from k2.watch.curves import LabelledCurve, read_folder

THRESHOLDS = ("onset_z", "quiet_z", "level_deviations", "level_nats", "level_errors", "relative_floor")
WINDOWS = ("windows.reference", "windows.lag", "windows.level", "windows.quiet", "windows.rebase")


def moved(name: str, factor: float) -> Spikes:
    """The default constants, one of them multiplied."""
    fields = Spikes().model_dump()
    holder, key = (fields["windows"], name.removeprefix("windows.")) if name.startswith("windows.") else (fields, name)
    holder[key] = type(holder[key])(round(holder[key] * factor, 6))
    return Spikes.model_validate(fields)


def measure(spikes: Spikes, curves: list[LabelledCurve]) -> str:
    scores = {"k2": empty_score()}
    run_curves({"k2": ours(spikes)}, curves, scores)
    score = scores["k2"]
    return (
        f"caught {score.caught} of {score.rises}, strictly {score.caught_strictly}; {score.clean_actions} false on {score.clean_steps:,} "
        f"clean steps; {len(score.bad_resume_steps)} of {score.bad_resumes} bad resumes at step {max(score.bad_resume_steps, default=0)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--only", default=",".join((*THRESHOLDS, *WINDOWS)))
    arguments = parser.parse_args()
    curves = list(read_folder(arguments.folder))
    print(f"{'as shipped':24s} {measure(Spikes(), curves)}", flush=True)
    for name in arguments.only.split(","):
        for factor in (1 - arguments.share, 1 + arguments.share):
            print(f"{name} x {factor:.2f}".ljust(24), measure(moved(name, factor), curves), flush=True)


if __name__ == "__main__":
    main()
