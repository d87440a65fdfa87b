"""A study of safety decisions before the chain of thought."""

import warnings

__version__ = "0.1.0"

# peft asks transformers for an attribute under its old name, once for every adapter.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
