"""Remarks: said where they hold, and only there."""

from dataclasses import replace

from tdd_cli.evaluation import coco
from tdd_cli.evaluation.protocol import EvalSet, Reference, Rules, choose
from tdd_cli.evaluation.remarks import remarks
from tdd_cli.evaluation.results import Entry
from tdd_cli.evaluation.sets import open_set

INCEPTION, CLIP = {"network": "inception"}, {"network": "a-clip"}


def rules(n, *, pictures=40_504):
    reference = Reference(range(pictures), "all", "0")
    found = EvalSet("coco30k", 1, ("a fox",) * n, n, reference, 256, complete=40_504, published=(coco.KNOWN,))
    return Rules(found, n)


def test_published_figures_stand_beside_figures_of_the_same_features_only():
    whole = rules(30_000)
    assert remarks(whole, {"fid": INCEPTION}) == [coco.KNOWN.what]
    assert remarks(whole, {"fid": CLIP}) == [
        "FID is of the features of a-clip: comparable with no figure of others"
    ]
    assert remarks(whole, {"clip": {"network": "openai/clip-vit-large-patch14"}, "speed": {}}) == []


def test_the_bias_of_fid_is_no_matter_of_other_metrics():
    few = rules(5_000)
    assert any("biased" in each for each in remarks(few, {"fid": INCEPTION}))
    assert any("biased" in each for each in remarks(few, {"fd-dinov2": {"network": "facebook/dinov2-large"}}))
    assert not any("biased" in each for each in remarks(few, {"kid": INCEPTION}))


def test_small_sets_and_few_pictures(coco):
    found = open_set("coco30k", data=str(coco))
    said = " ".join(remarks(choose(found, 12), {"fid": INCEPTION}))
    assert "12 reference pictures instead of 40,504" in said
    assert "12 pictures instead of the protocol's 30,000" in said


def test_real_pictures_that_could_not_be_read_and_forced_baselines():
    entry = Entry("ours", {}, 10, 0, {}, reference_unreadable=3)
    other = replace(entry, label="past", apart="n: 10 / 20", reference_unreadable=0)
    found = remarks(rules(30_000), {"fid": INCEPTION}, [entry, other])
    assert found[0] == "Not comparable, shown together by --force: of past, n: 10 / 20"
    assert found[-1] == "3 of the set's own pictures could not be read, and are left out"
