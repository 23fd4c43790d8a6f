"""The place: where a run happens. It never changes what is trained, nor the recipe's digest."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from k2.recipe.part import Count, Part

Rendezvous = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:[1-9][0-9]{0,4}$")]
_LAST_PORT = 65535
EvaluatorDevice = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")]


class Place(Part):
    """Where a run happens. Never part of the digest."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["auto", "flash", "cudnn", "sdpa"] = Field(
        default="auto", description="code of attention: flash-attn, cuDNN or torch's own; auto takes the fastest known for the device"
    )
    compile_layers: bool = Field(
        default=False, description="compile each layer with torch.compile: a minute at each start, then fewer kernels"
    )
    threads_per_rank: Count = 1
    world: str | None = Field(default=None, description="other ranks than the recipe's, as pp2dp1tp1mb4; the samples stay the same")
    nodes: Count = Field(default=1, description="hosts that train together, each with its share of the ranks, over one runs directory")
    rendezvous: Rendezvous | None = Field(
        default=None, description="host:port of node 0, which drives the run, as the other nodes reach it; they join by `k2 join`"
    )
    node_silence_seconds: Annotated[float, Field(ge=2.0, le=3600.0, allow_inf_nan=False)] = Field(
        default=60.0, description="a node that gives no sign for so long is lost: the attempt ends, the next begins once all are there"
    )
    hang_floor_seconds: Annotated[float, Field(ge=5.0, le=86400.0, allow_inf_nan=False)] = Field(
        default=60.0,
        description="a trainer hangs when no step comes for so long, and for 5 x the 99th percentile of the time between steps",
    )
    saving: Literal["beside", "waiting"] = Field(
        default="beside", description="checkpoints are written beside the next steps, or the training waits for them"
    )
    evaluator_niceness: Annotated[int, Field(ge=0, le=19, description="of evaluating and publishing, beside the training")] = 10
    evaluator_devices: Annotated[tuple[EvaluatorDevice, ...], Field(min_length=1)] = Field(
        default=("cpu",),
        description="what scores checkpoints, a checkpoint at a time on each: cpu, or cuda:3 of the visible ones, where no training of the "
        "machine needs its memory; one that is named again gets a further process. Beside a training the first one works alone",
    )
    benchmarks_dir: str | None = Field(default=None, description="folder of the benchmarks' data sets, as `k2 eval fetch` fills it")
    run_generated_code: bool = Field(default=False, description="score tasks that run programs written by the model, each in its own jail")
    data_dir: str = Field(default=".", description="folder under which `files` sources and tokenizers lie")
    read_from: tuple[str, ...] = Field(
        default=("s3://", "hf://"), description="beginnings of the addresses that `files` sources may be read from; () allows none"
    )
    publish_to: tuple[str, ...] = Field(
        default=("file://{runs_dir}/../published/{run}",), description="file://, s3:// or hf:// targets; {run} and {runs_dir} are filled in"
    )
    credentials: tuple[Annotated[str, Field(pattern=r"^(secret|aws-credentials|minio-credentials)/[a-z0-9][a-z0-9-]{0,99}$")], ...] = Field(
        default=(), description="blocks of the Prefect server that publishing has its credentials from; () means the environment"
    )
    wandb_mode: Literal["offline", "online", "disabled"] = "offline"
    engine: Literal["pool", "dask", "ray"] = Field(
        default="pool", description="what prepares data in parallel: processes of this machine, or a cluster"
    )
    workers: Count | None = Field(
        default=None, description="processes that prepare data; when not given, one a core where there is enough text"
    )
    engine_address: str | None = Field(
        default=None, description="of the Dask scheduler or the Ray cluster; when not given, one is started here"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_runs_have_written_it(cls, document: Any) -> Any:
        """A run keeps its place in full: one from before evaluations had several devices names the one."""
        if isinstance(document, dict) and "evaluator_device" in document and "evaluator_devices" not in document:
            return {k: v for k, v in document.items() if k != "evaluator_device"} | {"evaluator_devices": [document["evaluator_device"]]}
        return document

    @model_validator(mode="after")
    def _nodes_meet_somewhere(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(
                f"nodes = {self.nodes} hosts cannot find each other without rendezvous: say where the others reach node 0, "
                'for instance rendezvous = "10.0.0.1:29500"'
            )
        if self.rendezvous is not None and int(self.rendezvous.rpartition(":")[2]) > _LAST_PORT:
            raise ValueError(f"rendezvous = {self.rendezvous!r} names a port above {_LAST_PORT}: choose a free one below, as 29500")
        if self.nodes > 1 and self.device == "auto":
            raise ValueError(
                f'device = "auto" is found out by each host alone, and nodes = {self.nodes} hosts must agree: set it to "cuda" or "cpu"'
            )
        if self.nodes == 1 and self.rendezvous is not None:
            raise ValueError(f"rendezvous = {self.rendezvous!r} has no effect with nodes = 1: set nodes to 2 or more, or remove it")
        return self

    @model_validator(mode="after")
    def _address_has_an_effect(self) -> Self:
        if self.engine == "pool" and self.engine_address is not None:
            raise ValueError(
                f"engine_address = {self.engine_address!r} has no effect with engine = 'pool': set engine to 'dask' or 'ray', or remove it"
            )
        return self
