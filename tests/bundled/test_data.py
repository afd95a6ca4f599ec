import torch

from tdd_cli.bundled.emoji import FOLDER, STYLES, build, dataset, things


def test_the_data_set_is_what_its_licence_file_says(emoji):
    names = {row.name for row in emoji.rows}
    text = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    assert f"{len(emoji.rows):,} pictures of {len(names)} things" in text
    for style, source in build.SOURCES.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {style} |")]
        assert source.licence.replace("CC-BY-4.0", "CC-BY 4.0") in line


def test_every_thing_has_at_least_four_of_the_five_styles_each_once(emoji):
    styles = {}
    for row in emoji.rows:
        styles.setdefault(row.name, []).append(row.style)
    assert 500 <= len(styles) <= 700
    assert all(len(set(drawn)) == len(drawn) >= build.MIN_STYLES for drawn in styles.values())
    assert set().union(*styles.values()) == set(STYLES) == set(build.SOURCES)


def test_pictures_are_64_pixels_centred_on_white(emoji):
    assert emoji.images.shape[1:] == (3, 64, 64)
    assert emoji.images.min() >= -1
    assert emoji.images.max() <= 1
    margin = torch.ones(64, 64, dtype=torch.bool)
    margin[build.MARGIN : -build.MARGIN, build.MARGIN : -build.MARGIN] = False
    assert (emoji.images[:, :, margin] == 1).all()


def test_files_stay_small():
    assert (FOLDER / "data.parquet").stat().st_size < 10 * 2**20


def test_what_is_left_out_is_not_there(emoji):
    assert not things.LEFT_OUT & {row.name for row in emoji.rows}


def test_the_evaluation_split_is_128_things_of_the_data_set_with_a_seed_each(emoji):
    names, seeds = zip(*dataset.evaluation_split(), strict=True)
    assert len(set(names)) == len(set(seeds)) == 128
    assert set(names) <= {row.name for row in emoji.rows}


def test_displacing_by_nothing_leaves_or_mirrors_the_picture(emoji):
    some = emoji.images[:16]
    moved = dataset.displaced(some, torch.Generator().manual_seed(0), shift=0, scale=1, degrees=0)
    same = (moved - some).abs().amax((1, 2, 3)) < 1e-3
    mirrored = (moved - some.flip(-1)).abs().amax((1, 2, 3)) < 1e-3
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_displacing_keeps_the_border_white_and_depends_on_the_generator_only(emoji):
    some = emoji.images[:16]
    first, second = (dataset.displaced(some, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert (first[:, :, 0] > 0.9).all()


def test_codes_agree_across_the_packages_spellings():
    assert build.code("1F3F3-FE0F-200D-1F308") == build.code("1f3f3-1f308") == "1f3f3-1f308"
    assert build.code("a9") == "00a9"
