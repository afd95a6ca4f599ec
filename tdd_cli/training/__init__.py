"""Distillation: what is drawn for a step, the loop, checkpoints, previews."""
