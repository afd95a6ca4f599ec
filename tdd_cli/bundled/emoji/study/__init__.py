"""The study: LCM, PCM, CTM and TDD under one trainer on the miniature, and what each part of TDD is for.

plan.py      which runs and which measurements      carry.py    carries them out, each once
rows.py      what was measured, as study.csv        summary.py  means and spreads over seeds
tables.py    them as tables                         page.py     the page in docs/, with plots and samples
"""
