"""Every path of a run directory, one function each. Nothing else in the project joins these names."""

import re
from dataclasses import dataclass
from pathlib import Path

_RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checkpoint_name(number: int) -> str:
    """`ckpt_NNN`: the state after `number` chunks of the run, counted on through the stages."""
    return f"ckpt_{number:03d}"


def rescue_name(stage: str, step: int) -> str:
    """A checkpoint between two chunk ends."""
    return f"rescue_{stage}_{step:06d}"


def run_root(runs_dir: Path, run: str) -> Path:
    """The folder of a run given by name (under `runs_dir`) or by path (with a slash in it). `ValueError` for a name that cannot be one."""
    if "/" in run:
        return Path(run)
    if not _RUN_NAME.fullmatch(run):
        raise ValueError(f"{run!r} cannot name a run: use lower-case letters, digits, '.', '_' and '-', at most 63, for instance k2-tiny-1")
    return runs_dir / run


@dataclass(frozen=True)
class RunLayout:
    """The paths of one run. `root` need not exist yet."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.toml"

    @property
    def place(self) -> Path:
        return self.root / "place.toml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / "LOCK"

    @property
    def lease(self) -> Path:
        return self.root / "lease.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def trainer_log(self, attempt: int) -> Path:
        return self.logs / f"trainer_attempt_{attempt:02d}.log"

    def node_log(self, node: int, attempt: int) -> Path:
        """Of the share of the trainer that another host than the driver's runs."""
        return self.logs / f"node_{node}_attempt_{attempt:02d}.log"

    def evaluator_log(self, number: int = 0) -> Path:
        """Of the evaluator of that number, among those that work side by side."""
        return self.logs / f"evaluator{f'_{number}' if number else ''}.log"

    @property
    def stop_request(self) -> Path:
        """Written by whoever wants the trainer to finish its step, save and end."""
        return self.root / "control" / "stop.json"

    @property
    def asked(self) -> Path:
        """Which flow run waits for the answer to an open incident, and on which server."""
        return self.root / "control" / "asked.json"

    @property
    def bad_resume(self) -> Path:
        """Written by a trainer whose first steps do not repeat the record."""
        return self.root / "control" / "bad_resume.json"

    @property
    def call(self) -> Path:
        """What the hosts that train together are called to, written by the driver."""
        return self.root / "control" / "call.json"

    def node(self, node: int) -> Path:
        """The sign of life of the host that is this node, which holds it locked."""
        return self.root / "control" / "nodes" / f"{node}.json"

    # data
    @property
    def sources(self) -> Path:
        """What the data is made from: which files, and the documents gathered from this installation."""
        return self.root / "sources"

    @property
    def tokenizer(self) -> Path:
        """Folder of `tokenizer.model` and its receipt."""
        return self.root / "tokenizer"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    def shard(self, subset: str, shard: int) -> Path:
        """Folder of the encoded documents of one piece of a subset."""
        return self.tokens / subset / f"shard_{shard:05d}"

    def stream(self, subset: str) -> Path:
        """Folder that says what of the subset's shards is trained on, and in which order."""
        return self.tokens / subset / "stream"

    @property
    def held_out(self) -> Path:
        """The documents kept from training, `.jsonl`; its folder holds their receipt."""
        return self.root / "held_out" / "documents.jsonl"

    @property
    def all_chunks(self) -> Path:
        """Holds the receipt over all stages' chunks, written when the last of them is."""
        return self.root / "chunks"

    def chunks(self, stage: str) -> Path:
        return self.all_chunks / stage

    def chunk(self, stage: str, chunk: int) -> Path:
        """uint16 rows: samples x context."""
        return self.chunks(stage) / f"chunk_{chunk:03d}.bin"

    def chunk_index(self, stage: str, chunk: int) -> Path:
        """Which documents lie in which rows."""
        return self.chunks(stage) / f"chunk_{chunk:03d}.index.npy"

    def chunk_documents(self, stage: str, chunk: int) -> Path:
        """Which documents these are."""
        return self.chunks(stage) / f"chunk_{chunk:03d}.documents.npy"

    def chunk_files(self, stage: str, chunk: int) -> Path:
        """Which files they were read from."""
        return self.chunks(stage) / f"chunk_{chunk:03d}.files.jsonl"

    @property
    def all_suites(self) -> Path:
        return self.root / "suites"

    def suite(self, suite: str) -> Path:
        """Folder of the evaluation suite's task files and data."""
        return self.all_suites / suite

    # training
    def metrics_folder(self, stage: str) -> Path:
        return self.root / "metrics" / stage

    def metrics(self, stage: str, attempt: int) -> Path:
        return self.metrics_folder(stage) / f"attempt_{attempt:02d}.jsonl"

    def probe(self, incident: int) -> Path:
        """The records of the incident's replay probe; its log lies among the others."""
        return self.root / "metrics" / "probes" / f"incident_{incident:03d}.jsonl"

    def probe_log(self, incident: int) -> Path:
        return self.logs / f"trainer_probe_{incident:03d}.log"

    def node_probe_log(self, node: int, incident: int) -> Path:
        """Of another host's share of the probe. Apart: the attempt after it has the same number, and is judged by what its logs say."""
        return self.logs / f"node_{node}_probe_{incident:03d}.log"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        return self.checkpoints / name

    @property
    def scrubbed(self) -> Path:
        """When which checkpoint was digested again."""
        return self.root / "control" / "scrubbed.json"

    @property
    def trash(self) -> Path:
        """Where checkpoints go that nobody needs any more, until the next round."""
        return self.checkpoints / ".trash"

    @property
    def pins(self) -> Path:
        """A note for each checkpoint that somebody wants kept."""
        return self.root / "pins"

    @property
    def quarantine(self) -> Path:
        """Where checkpoints go that did not verify, kept for a look."""
        return self.root / "quarantine"

    # what a checkpoint is owed
    def verified(self, name: str) -> Path:
        return self.root / "verified" / name

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    def export(self, name: str) -> Path:
        return self.exports / name

    @property
    def all_scores(self) -> Path:
        return self.root / "scores"

    def scores(self, name: str) -> Path:
        return self.all_scores / name

    @property
    def all_task_scores(self) -> Path:
        """What is scored task by task, before and beside the scores that a checkpoint is owed."""
        return self.root / "task_scores"

    def task_scores(self, name: str, suite: str, task: str) -> Path:
        """Folder of one task's scores and answers, with their receipt."""
        return self.all_task_scores / name / suite / task

    def task_failures(self, name: str) -> Path:
        """Every attempt at a task that failed, `.jsonl`."""
        return self.all_task_scores / name / "failures.jsonl"

    @property
    def all_questions(self) -> Path:
        """What suites ask: a folder each."""
        return self.root / "questions"

    def questions(self, suite: str, task: str) -> Path:
        """Folder of what the task asks, the same for every checkpoint."""
        return self.all_questions / suite / task

    def published(self, name: str) -> Path:
        return self.root / "published" / name

    @property
    def report(self) -> Path:
        """What people look at: the page and the galleries."""
        return self.root / "report"

    def shown(self, name: str) -> Path:
        return self.report / "shown" / name

    @property
    def page(self) -> Path:
        return self.report / "index.html"

    @property
    def published_page(self) -> Path:
        """The page's edition for other places: its links lead to what lies beside it there."""
        return self.report / "published.html"

    @property
    def gallery(self) -> Path:
        """The static site of what checkpoints answered."""
        return self.report / "gallery"

    @property
    def release(self) -> Path:
        return self.root / "release"

    def incident(self, number: int) -> Path:
        return self.root / "incidents" / f"{number:03d}"

    @property
    def incidents(self) -> Path:
        return self.root / "incidents"

    def kept(self, number: int) -> "KeptLayout":
        """The same run with the checkpoints that an incident keeps in place of its own."""
        return KeptLayout(self.root, number)

    @property
    def wandb(self) -> Path:
        return self.root / "wandb"


@dataclass(frozen=True)
class KeptLayout(RunLayout):
    """A run whose checkpoints and exports are those that its incident `number` keeps as evidence; all else is the run's."""

    number: int

    @property
    def checkpoints(self) -> Path:
        return self.incident(self.number) / "kept" / "checkpoints"

    @property
    def exports(self) -> Path:
        return self.incident(self.number) / "kept" / "exports"

    @property
    def window(self) -> Path:
        """Folder of the rows that the spiked steps were trained on."""
        return self.incident(self.number) / "window"

    @property
    def published_evidence(self) -> Path:
        """Folder of the receipt that says where the evidence was published."""
        return self.incident(self.number) / "published_evidence"
