"""DeepSpeed's configuration as a pure function of recipe and stage.

Every entry that differs from DeepSpeed's default says why. The batch sizes follow from the stage; the optimizer and
the schedule are ours and do not appear.
"""

from typing import Any

from k2.recipe.schema import Recipe, Stage


def deepspeed_json(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """The document that `deepspeed.initialize` takes."""
    layout = recipe.layout
    return {
        "train_batch_size": stage.batch_samples,
        "train_micro_batch_size_per_gpu": stage.micro_batch_samples,
        "gradient_accumulation_steps": layout.micro_batches(stage),
        "gradient_clipping": recipe.optimizer.clip,
        "steps_per_print": 100,  # DeepSpeed keeps a pair of CUDA events a step until it prints
        # stage 0 with a pipeline clips by the norm of the first pipeline stage alone, and a NaN reaches the weights
        # norms stay whole: a shard of so few numbers costs a message and saves nothing
        "zero_optimization": {"stage": layout.zero_stage, "stage3_param_persistence_threshold": recipe.model.hidden},
        "pipeline": {
            # slicing boundary tensors over tensor ranks supposes that each holds all of them: wrong with sequence parallelism
            "pipe_partitioned": False,
            "grad_partitioned": False,
            # the reentrant kind needs inputs with gradients, and token ids have none
            "use_reentrant": False,
        },
        "checkpoint": {"tag_validation": "Fail", "load_universal": False},
        "wall_clock_breakdown": False,
        **_precision(layout.precision),
    }


def _precision(precision: str) -> dict[str, Any]:
    if precision == "fp32":
        return {}
    # Without grad_accum_dtype micro-batches accumulate in bfloat16 (K2 §3.1: fp32). The immediate update frees the bf16 gradients at once.
    return {"bf16": {"enabled": True, "immediate_grad_update": True}, "data_types": {"grad_accum_dtype": "fp32"}}
