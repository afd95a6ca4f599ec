"""From a recipe's `data` section to batches: sources (through `datasets`), crops, and a repeatable order."""
