"""A study of safety decisions before the chain of thought."""

__version__ = "0.1.0"
