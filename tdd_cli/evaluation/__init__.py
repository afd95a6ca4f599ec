"""Evaluation by recorded protocols.

asked.py       what was typed into what is measured     evaluate.py     the whole
protocol.py    what is measured against what            sets.py coco.py the named protocols
subjects.py    whose pictures                           collect.py      pictures to shards of evidence
networks.py    FEATURES: pictures to vectors            inception.py    Inception 2015-12-05
reference.py   real pictures, kept between runs         statistics.py   distances between clouds of vectors
metrics.py     METRICS: evidence to figures             results.py      eval.json
table.py       what is shown                            report.py plot.py  report.html and its plots
"""
