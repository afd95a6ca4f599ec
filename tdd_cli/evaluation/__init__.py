"""Evaluation by recorded protocols: sets, feature networks, statistics, metrics, results and their report.

protocol.py    what is measured against what          sets.py, coco.py    the named protocols
networks.py    FEATURES: pictures to vectors          inception.py        Inception 2015-12-05
statistics.py  distances between clouds of vectors    metrics.py          METRICS: figures from evidence
subjects.py    whose pictures                         collect.py          pictures to shards of evidence
evaluate.py    the whole                              results.py, report.py, plot.py    what comes of it
"""
