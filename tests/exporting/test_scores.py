"""What tdd eval measured, as a table on the model card."""

import pytest

from tdd_cli.errors import UsageError
from tdd_cli.evaluation.metrics import Figure
from tdd_cli.evaluation.results import Entry, Result
from tdd_cli.exporting.scores import scores


def entry(label, steps, **figures):
    subject = {"sampling": {"steps": steps, "guidance": 1.0}}
    return Entry(label, subject, n=8, unreadable=0, figures={k: Figure(*v) for k, v in figures.items()})


def test_the_table_has_every_entry_and_figure_and_names_its_protocol(tmp_path):
    protocol = {"set": "emoji", "version": 1, "n": 8}
    entries = [entry("mi|ne", 4, fid=(12.345,), kid=(3.0, 2.5, 3.5)), entry("teacher", 50, fid=(9.0,))]
    Result(protocol, "0123456789abcdef", [], {}, {}, entries).save(tmp_path / "eval.json")
    table, settings, said = scores(tmp_path / "eval.json").split("\n\n")
    head, rule, mine, teacher = table.splitlines()
    assert head.startswith("|  | steps | FID ↓ | KID")
    assert set(rule) == set("| -")
    assert mine == "| mi ne | 4 | 12.35 | 3.00 ±0.50 |" or mine.startswith("| mi ne | 4 | 12.3")
    assert teacher.endswith("|  |")
    assert settings == "All rows: guidance 1"
    assert said == "Protocol: emoji 1, n = 8, 0123456789ab."


def test_another_file_is_refused(tmp_path):
    (tmp_path / "eval.json").write_text("{}")
    with pytest.raises(UsageError, match="not a result of tdd eval"):
        scores(tmp_path / "eval.json")
