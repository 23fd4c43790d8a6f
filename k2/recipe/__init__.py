"""The recipe: what is trained, whole and frozen."""
