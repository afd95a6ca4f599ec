"""The study: LCM, PCM, CTM and TDD under one trainer on the miniature, and what each part of TDD is for.

plan.py      which runs and which measurements      carry.py    carries them out, each once
summary.py   means and spreads over seeds           page.py     tables and pictures for docs/
"""
