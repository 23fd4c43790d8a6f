"""`k2`, the command line: what a user types, and the exit codes that scripts rely on.

Each command is a function of a module of `flows.commands`; this file declares them and turns errors into one paragraph and a
code: 0 done, 1 an error, 2 bad usage or a refused recipe, 3 stopped and resumable, 4 waits for a decision, 5 held by
another writer, 130 interrupted. Nothing heavy is imported before a command needs it.
"""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flows.declaring import Commands, command
from flows.declaring_data import add_data_commands

DONE, FAILED, REFUSED, STOPPED, WAITS, HELD, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_WORLD = "as pp2dp1tp1: pipeline, data and tensor; behind it sp for sequence parallelism, zero3, mb4 for micro-batches of 4 samples"
_EPILOG = """\
exit codes: 0 done, 1 error, 2 refused, 3 stopped (resumable), 4 waits for a decision, 5 held by another writer, 130 interrupted

first steps:
  k2 doctor                            what will fail before it does
  k2 plan k2_65b                       what a run would take
  k2 run k2_tiny --run first --ui      the whole pipeline in minutes, with the UI
  k2 status first                      where it stands
  k2 resume first                      go on after a stop or a crash
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="k2",
        description="Train, evaluate and publish a language model in the open, from a recipe to a release.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run_commands(commands)
    _add_checkpoint_commands(commands)
    _add_proof_commands(commands)
    add_data_commands(commands)
    _add_recipe_commands(commands)
    _add_service_commands(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        perform: Callable[[argparse.Namespace], int] = arguments.perform
        return perform(arguments)
    except KeyboardInterrupt:
        again = f"`k2 resume {arguments.run}`" if arguments.command in ("run", "resume") else "the same command"
        print(f"interrupted; nothing earned is lost: go on with {again}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        return _explain(error)


def entry() -> NoReturn:
    """The `k2` script."""
    from flows.console import leave

    leave(main())


def _explain(error: Exception) -> int:
    """One paragraph on standard error, and the code for it. What is no user's fault keeps its trace."""
    from k2.recipe.load import RecipeError
    from k2.run.lease import RunHeld
    from k2.run.opening import NoSuchRun

    if isinstance(error, RunHeld):
        code = HELD
    elif isinstance(error, RecipeError | NoSuchRun):
        code = REFUSED
    elif isinstance(error, ValueError | RuntimeError | OSError):
        code = FAILED
    else:
        raise error
    print(f"k2: {_disk_full(error) or error}", file=sys.stderr)
    return code


def _disk_full(error: Exception) -> str | None:
    if not (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return None
    where = f" ({error.filename})" if error.filename else ""
    return f"the disk is full{where}: free some space and go on with `k2 resume`; what has its receipt is kept"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _add_run_commands(commands: Commands) -> None:
    run = command(commands, "run", "run a recipe from wherever it stands to its end", "runs.run")
    run.add_argument("recipe", help="a .toml file or a shipped name: k2_tiny, k2_1b, k2_65b")
    run.add_argument("--run", required=True, help="name of the run: its folder under the runs directory")
    run.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="override a field of the recipe")
    run.add_argument("--place", metavar="FILE", help="TOML file that says where the run happens")
    run.add_argument("--ui", action="store_true", help="serve the Prefect UI on loopback while the run lasts")
    resume = command(commands, "resume", "go on with a run, from its directory alone", "runs.resume")
    resume.add_argument("run")
    resume.add_argument("--place", metavar="FILE", help="go on elsewhere: TOML file that says where, in the stead of the run's own")
    resume.add_argument("--world", metavar="W", help=f"go on with other ranks than before, {_WORLD}")
    resume.add_argument("--ui", action="store_true", help="serve the Prefect UI on loopback while the run lasts")
    join = command(commands, "join", "train along on another host, as a node of a run whose place has several", "runs.join")
    join.add_argument("run", help="its directory, which all hosts share")
    join.add_argument(
        "--node", type=int, required=True, metavar="K", help="which one this host is, from 1; node 0 is where the run is driven"
    )
    for name, words in (
        ("status", "say where a run stands"),
        ("stop", "ask the trainer to finish its step, save and end"),
        ("report", "build the run's HTML page"),
    ):
        command(commands, name, words, f"runs.{name}").add_argument("run")
    decide = command(commands, "decide", "answer an open incident", "runs.decide")
    decide.add_argument("run")
    decide.add_argument("incident", type=int)
    decide.add_argument("action", choices=("rollback", "continue", "abort"))
    decide.add_argument("--to", metavar="CKPT", help="the checkpoint to go back to (default: the policy's choice)")
    decide.add_argument("--data", choices=("skip", "defer"), help="what happens to the data window (default: the recipe's)")
    logs = command(commands, "logs", "show the log of a run's trainer", "runs.logs")
    logs.add_argument("run")
    logs.add_argument("-f", "--follow", action="store_true")
    command(commands, "runs", "list the runs here", "runs.runs")


def _add_checkpoint_commands(commands: Commands) -> None:
    export = command(commands, "export", "write a checkpoint in Hugging Face format, logits compared", "checkpoints.export")
    export.add_argument("run")
    export.add_argument("checkpoint")
    export.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    imported = command(commands, "import", "start a run from an existing Hugging Face Llama, logits compared", "checkpoints.import_model")
    imported.add_argument("folder", type=Path, help="with config.json, safetensors and tokenizer.model")
    imported.add_argument("--run", required=True, help="name of the new run")
    imported.add_argument("--recipe", help="the recipe to train on by (default: k2_tiny's data and schedule for this model)")
    imported.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="override a field of the recipe")
    imported.add_argument("--place", metavar="FILE", help="TOML file that says where the run happens")
    pin = command(commands, "pin", "keep a checkpoint, whatever retention says", "checkpoints.pin")
    pin.add_argument("run")
    pin.add_argument("checkpoint")
    pin.add_argument("--release", action="store_true", help="leave it to retention again")
    command(commands, "prune", "apply retention: remove what nobody needs any more", "checkpoints.prune").add_argument("run")
    evaluate = command(
        commands, "eval", "score what is unscored; `k2 eval fetch --to DIR` gets the benchmarks' data", "checkpoints.evaluate"
    )
    evaluate.add_argument("run", help="the run, a target that was published to (s3://bucket/prefix, hf://owner/name), or the word fetch")
    evaluate.add_argument("--checkpoint", action="append", default=[], help="only these (default: all)")
    evaluate.add_argument("--suite", help="score with this suite, k2_tiny or k2_21 (default: what the recipe asks for)")
    evaluate.add_argument("--place", metavar="FILE", help="of a target: TOML file that says where its checkpoints are scored")
    evaluate.add_argument("--to", type=Path, metavar="DIR", help="fetch: the folder to fill, for the place's benchmarks_dir")
    evaluate.add_argument("--from", dest="source", metavar="WHERE", help="fetch: a mirror's address or a folder (default: the Hub)")
    evaluate.add_argument("--offline", action="store_true", help="fetch: get nothing, only say what is there and what is missing")
    restore = command(commands, "restore", "a published checkpoint into a new run directory, ready to train on", "checkpoints.restore")
    restore.add_argument(
        "source", metavar="FROM", help="a target that was published to, or one checkpoint there: s3://bucket/prefix/ckpt_008"
    )
    restore.add_argument("--run", required=True, help="name of the new run")
    restore.add_argument("--checkpoint", metavar="CKPT", help="which checkpoint (default: the newest that is published there)")
    restore.add_argument("--place", metavar="FILE", help="TOML file that says where the run happens")
    publish = command(commands, "publish", "upload what is unpublished, and compare every digest", "checkpoints.publish")
    publish.add_argument("run")
    publish.add_argument("--checkpoint", action="append", default=[], help="only these (default: all)")
    publish.add_argument("--to", required=True, metavar="TARGET", help="s3://bucket/prefix, hf://owner/name or file:///folder")


def _add_proof_commands(commands: Commands) -> None:
    proof = command(commands, "verify-resume", "train unbroken and broken, and compare every number", "proofs.verify_resume")
    proof.add_argument("recipe", help="a .toml file or a shipped name: k2_tiny, k2_1b, k2_65b")
    proof.add_argument("--at", type=int, metavar="STEP", help="the break: stop after this step and resume (default: half of the steps)")
    proof.add_argument("--steps", type=int, metavar="N", help="how many steps of the first stage are trained (default: 12)")
    proof.add_argument("--world", metavar="A", help=f"the ranks before the break, {_WORLD} (default: the recipe's)")
    proof.add_argument(
        "--then",
        metavar="B",
        help="the ranks after it, written the same way (default: the same ranks; every number must then be equal to the bit)",
    )
    proof.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="override a field of the recipe")
    proof.add_argument("--place", metavar="FILE", help="TOML file that says where it is trained")


def _add_recipe_commands(commands: Commands) -> None:
    plan = command(commands, "plan", "what a recipe would take, before anything starts", "recipes.plan")
    plan.add_argument("recipe")
    plan.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c")
    doctor = command(commands, "doctor", "say what will fail before it does, on this machine, of a recipe at a place", "doctor.doctor")
    doctor.add_argument("recipe", nargs="?", help="a .toml file or a shipped name (default: the machine alone)")
    doctor.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="override a field of the recipe")
    doctor.add_argument("--place", metavar="FILE", help="TOML file that says where the run is to happen")
    group = commands.add_parser("recipe", help="validate and compare recipes", description="Validate and compare recipes.")
    recipe = group.add_subparsers(dest="recipe_command", required=True, metavar="COMMAND")
    command(recipe, "check", "validate a recipe", "recipes.check").add_argument("recipe")
    diff = command(recipe, "diff", "show what differs between two recipes", "recipes.diff")
    diff.add_argument("a")
    diff.add_argument("b")
    spikes = commands.add_parser("spikes", help="question the spike detector", description="Question the spike detector.")
    inner = spikes.add_subparsers(dest="spikes_command", required=True, metavar="COMMAND")
    replay = command(inner, "replay", "run the detector over a recorded curve (.csv, .csv.gz, .jsonl)", "spikes.replay")
    replay.add_argument("file", type=Path)
    replay.add_argument("--recipe", help="whose detector settings (default: k2_65b)", default="k2_65b")
    benchmark = command(
        inner, "benchmark", "this detector and the published ones, on synthetic families and on recorded curves", "spikes.benchmark"
    )
    benchmark.add_argument("folder", type=Path, nargs="?", help="a folder of curves, labelled by sustained_rises.csv in it")
    benchmark.add_argument("--recipe", help="whose detector settings (default: k2_65b)", default="k2_65b")
    benchmark.add_argument("--count", type=int, default=100, help="curves of each family (default: 100)")
    benchmark.add_argument("--seed", type=int, default=0, help="the first curve's seed")
    _add_goodput_commands(commands)


def _add_goodput_commands(commands: Commands) -> None:
    group = commands.add_parser("goodput", help="price policies at scale", description="Price policies at scale.")
    inner = group.add_subparsers(dest="goodput_command", required=True, metavar="COMMAND")
    simulate = command(inner, "simulate", "what share of the time would count, by policy and failure rate", "goodput.simulate")
    simulate.add_argument("recipe", help="a .toml file or a shipped name: k2_tiny, k2_1b, k2_65b")
    simulate.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c")
    simulate.add_argument(
        "--mtbf", action="append", type=float, metavar="HOURS", help="between failures, may be repeated (default: 24, 106, 214)"
    )
    simulate.add_argument("--step-seconds", type=float, help="length of a step (default: the recipe's energy.days over its steps)")
    simulate.add_argument("--checkpoint-seconds", type=float, default=60.0, help="how long a save holds the steps up (default: 60)")
    simulate.add_argument("--restart-seconds", type=float, default=600.0, help="from a failure to the first step (default: 600)")
    simulate.add_argument("--runs", type=int, default=50, help="runs of each kind (default: 50)")
    simulate.add_argument("--seed", type=int, default=0)


def _add_service_commands(commands: Commands) -> None:
    up = command(commands, "up", "start a local server with UI, its deployments and a worker", "service.up")
    up.add_argument("--host", default="127.0.0.1", help="beyond loopback PREFECT_SERVER_API_AUTH_STRING must be set")
    up.add_argument("--port", type=int, default=4200)
    command(commands, "down", "stop the local server and worker", "service.down")


if __name__ == "__main__":
    entry()
