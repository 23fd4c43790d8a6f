"""What leaves this host: the targets that are published to, and W&B. Which credentials are there is told by their names alone."""

import netrc
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import assert_never

from flows.doctor.check import Check, Patient, fails, fine, note, standing_folder
from k2.publish.hub import lacking_token
from k2.publish.s3 import lacking_credentials
from k2.publish.target import FolderTarget, HubTarget, S3Target, Target, TargetError, resolve_targets
from k2.recipe.place import Place
from k2.run.layout import RunLayout

_WANDB = "api.wandb.ai"


def check_outside(patient: Patient) -> Iterator[Check]:
    """Every target of the place, and W&B where it is to be online."""
    try:
        targets = resolve_targets(patient.place, RunLayout(patient.runs_dir / "RUN"))
    except TargetError as error:
        yield fails("publish_to", f"{list(patient.place.publish_to)} of the place is refused", str(error))
        targets = ()
    for target in targets:
        yield check_target(target, patient.place)
    if patient.place.wandb_mode == "online":
        yield judge_wandb(os.environ, _has_login(Path.home() / ".netrc"))


def check_target(target: Target, place: Place) -> Check:
    """Whether it can be written, as far as this host knows."""
    name = f"publish to {str(target).partition(':')[0]}"
    match target:
        case FolderTarget(path=path):
            return _check_folder(name, path)
        case S3Target():
            return judge_credentials(name, str(target), lacking_credentials(target), place)
        case HubTarget():
            return judge_credentials(name, str(target), lacking_token(target), place)
    assert_never(target)


def judge_credentials(name: str, target: str, lacking: str | None, place: Place) -> Check:
    """The environment's credentials, or the place's blocks, which are read when something is published."""
    if lacking is None:
        return fine(name, f"{target}: credentials are there; whether they open it was not asked")
    if place.credentials:
        blocks = ", ".join(place.credentials)
        return note(name, f"{target}: its credentials are to come from blocks of the Prefect server ({blocks}), which were not read")
    return fails(name, f"{target}: its credentials are missing", lacking)


def judge_wandb(environ: Mapping[str, str], has_login: bool) -> Check:
    if environ.get("WANDB_API_KEY") or has_login:
        return fine("W&B", 'wandb_mode = "online": a key is there')
    hint = 'set WANDB_API_KEY, or wandb_mode to "offline", to be sent later with `wandb sync`'
    return fails("W&B", 'wandb_mode = "online" of the place, and there is no key: nothing would arrive', hint)


def _check_folder(name: str, path: Path) -> Check:
    folder = standing_folder(path)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return fine(name, f"{path}: can be written")
    except OSError as error:
        return fails(name, f"{path} cannot be written: {error.strerror}", f"have {folder} made writable for you, or name another folder")


def _has_login(path: Path) -> bool:
    """Whether `wandb login` has left a key; it is not looked at."""
    try:
        return netrc.netrc(path).authenticators(_WANDB) is not None
    except (OSError, netrc.NetrcParseError):
        return False
