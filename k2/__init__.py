"""K2 Pipeline: train, evaluate and publish a language model in the open, from a recipe to a release."""

__version__ = "0.1.0"
