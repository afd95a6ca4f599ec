"""tdd: distil diffusion models to a few sampling steps by Target-Driven Distillation (arXiv 2409.01347)."""

__version__ = "0.1.0"
