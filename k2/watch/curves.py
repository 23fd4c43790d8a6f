"""A folder of recorded curves with what is known of them.

`sustained_rises.csv` beside the curves labels them (columns `curve, step, rise_nats, persists_steps`): a curve that it does
not name is clean. Without that file nothing is known of a curve. A name that ends in `_resume_at_STEP` says where the run
was resumed badly, where the file's own column `resumed` does not.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from k2.run.records import StepRecord
from k2.watch.replay import CurveRefused, read_curve

LABELS = "sustained_rises.csv"
_SUFFIXES = (".csv", ".csv.gz", ".jsonl")
_COUNTED_NATS, _COUNTED_STEPS = 0.1, 500  # spikes specification 3.1
_RESUMED = re.compile(r"resume_at_(\d+)$")


@dataclass(frozen=True)
class Rise:
    """One labelled rise."""

    step: int
    rise_nats: float
    persists_steps: int


@dataclass(frozen=True)
class LabelledCurve:
    name: str
    records: list[StepRecord]
    rises: tuple[Rise, ...] | None  # None: nobody labelled the folder
    resumed_at: int | None = None

    @property
    def is_clean(self) -> bool:
        return self.rises == () and self.resumed_at is None

    @property
    def counted_rises(self) -> list[Rise]:
        """Those that a detector must find: at least 0.1 nat for at least 500 steps."""
        return [r for r in self.rises or () if r.rise_nats >= _COUNTED_NATS and r.persists_steps >= _COUNTED_STEPS]


def read_folder(folder: Path) -> Iterator[LabelledCurve]:
    """The curves in the folder by name, one after the other. `CurveRefused` where there is none, or one cannot be read."""
    labels = _read_labels(folder / LABELS)
    paths = [path for path in sorted(folder.iterdir()) if path.name.endswith(_SUFFIXES) and path.name != LABELS] if folder.is_dir() else []
    if not paths:
        raise CurveRefused(f"{folder} holds no curves: give a folder with .csv, .csv.gz or .jsonl files of the columns step and loss")
    for path in paths:
        name = path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".jsonl")
        rises = None if labels is None else tuple(labels.get(name, ()))
        yield _with_resume(LabelledCurve(name, list(read_curve(path)), rises))


def _with_resume(curve: LabelledCurve) -> LabelledCurve:
    """The curve, resumed where its name says so."""
    match = _RESUMED.search(curve.name)
    if match is None:
        return curve
    at = int(match[1])
    attempts = {record.attempt for record in curve.records}
    records = curve.records if len(attempts) > 1 else [replace(r, attempt=r.attempt + (r.step >= at)) for r in curve.records]
    return replace(curve, records=records, resumed_at=at)


def _read_labels(path: Path) -> dict[str, list[Rise]] | None:
    if not path.is_file():
        return None
    labels: dict[str, list[Rise]] = {}
    with path.open(encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                rise = Rise(int(row["step"]), float(row["rise_nats"]), int(float(row["persists_steps"])))
                labels.setdefault(row["curve"], []).append(rise)
            except (KeyError, TypeError, ValueError) as error:
                raise CurveRefused(
                    f"{path}, line {number}: {error!r}; its columns are curve, step, rise_nats and persists_steps"
                ) from error
    return labels
