"""Which code computes attention: asked for by the place, or chosen from what is measured on the device.

A pure decision over facts of the machine; they are read in one function. On Hopper cuDNN's kernel trains 1.7 to 2.3 times
as fast as the FlashAttention 2 that torch prefers by itself, and slower on Ampere and Blackwell (measured by
huggingface/transformers#48163).
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from k2.recipe.place import Place
from k2.recipe.schema import Recipe

Backend = Literal["sdpa", "cudnn", "flash"]
HOPPER = (9, 0)


@dataclass(frozen=True)
class Machine:
    """What the choice depends on. `capability` is the CUDA device's; none on a CPU."""

    capability: tuple[int, int] | None
    flash_installed: bool


def choose_backend(recipe: Recipe, place: Place, machine: Machine) -> Backend:
    """The place's wish, or for `auto` the fastest; `ValueError` for a wish that this machine or recipe cannot have."""
    asked = place.attention
    why_not = _why_plain_only(recipe, machine)
    if asked == "auto":
        return "sdpa" if why_not else _fastest(machine)
    if asked != "sdpa" and why_not:
        raise ValueError(f'place.attention = "{asked}" does not go with {why_not}; set it to "auto" or "sdpa"')
    if asked == "flash" and not machine.flash_installed:
        raise ValueError('place.attention = "flash", but flash-attn is not installed here; install k2-pipeline[flash] or set it to "auto"')
    return asked


def this_machine(device: str) -> Machine:
    import torch

    capability = torch.cuda.get_device_capability() if device == "cuda" else None
    return Machine(capability, find_spec("flash_attn") is not None)


def _why_plain_only(recipe: Recipe, machine: Machine) -> str | None:
    if machine.capability is None:
        return "a CPU"
    if recipe.layout.precision == "fp32":
        return 'layout.precision = "fp32"'
    if any(stage.attention_span == "document" for stage in recipe.stages):
        return 'attention_span = "document"'
    return None


def _fastest(machine: Machine) -> Backend:
    if machine.capability == HOPPER:
        return "cudnn"
    return "flash" if machine.flash_installed else "sdpa"
