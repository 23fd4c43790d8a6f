"""Proving what is claimed of a recipe, on this machine."""

from argparse import Namespace

from flows.commands.answering import answer, say
from k2.recipe.load import load_place, load_recipe
from k2.recipe.place import Place


def verify_resume(arguments: Namespace) -> int:
    """k2 verify-resume"""
    from flows.proof import Proof, plan_proof, prove_resume

    recipe = load_recipe(arguments.recipe, tuple(arguments.overrides))
    plan = plan_proof(recipe, arguments.at, arguments.steps, arguments.world, arguments.then)
    place = load_place(arguments.place) if arguments.place else Place()

    def words(proof: Proof) -> str:
        worlds = proof.world if proof.world == proof.then else f"{proof.world}, then {proof.then}"
        if proof.equal:
            return (
                f"{worlds}: {proof.steps} steps broken after {proof.at} equal the unbroken ones to the bit: losses, norms, weights, moments"
            )
        return (
            f"{worlds}: different first at step {proof.first_difference_step}; the losses by up to {proof.max_abs_difference:.3g} nats, "
            f"{'within' if proof.holds else 'BEYOND'} the tolerance of {proof.tolerance:g}; the weights by up to "
            f"{proof.max_abs_weight_difference:.3g}"
        )

    found = prove_resume(recipe, place, plan, arguments.runs_dir, say)
    answer(arguments, found, words(found))
    return 0 if found.holds else 1
