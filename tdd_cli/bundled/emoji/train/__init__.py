"""The scripts that made the miniature teacher: python -m tdd_cli.bundled.emoji.train --help."""
