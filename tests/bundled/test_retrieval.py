import torch

from tdd_cli.bundled.emoji import retrieval


def test_a_picture_retrieves_itself_and_so_does_its_mirror_image(emoji):
    among = retrieval.gallery(emoji)
    some = slice(0, None, 40)
    names = [row.name for row in emoji.rows[some]]
    assert retrieval.score(emoji.images[some], names, among).top1 == 1
    assert retrieval.score(emoji.images[some].flip(-1), names, among).top1 == 1


def test_distance_to_a_thing_is_the_least_over_its_pictures_and_their_mirror_images(emoji):
    among = retrieval.gallery(emoji)
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    found = retrieval.distances(images, among)
    assert found.shape == (3, len(among.names))
    mine = torch.stack([image for image, row in zip(*emoji, strict=True) if row.name == among.names[7]])
    both = retrieval.features(torch.cat([mine, mine.flip(-1)]))
    for image, line in zip(retrieval.features(images), found, strict=True):
        torch.testing.assert_close(line[7], (both - image).norm(dim=1).min())


def test_pooled_pixels_are_means_of_4_by_4():
    image = torch.arange(3 * 64 * 64.0).view(1, 3, 64, 64)
    pooled = retrieval.features(image).view(3, 16, 16)
    torch.testing.assert_close(pooled[1, 2, 3], image[0, 1, 8:12, 12:16].mean())


def test_score_counts_first_and_first_five(emoji):
    among = retrieval.gallery(emoji)
    images = emoji.images[:2]
    first, second = (found[:5] for found in retrieval.nearest(images, among))
    assert retrieval.score(images, [first[0], second[0]], among) == (1.0, 1.0)
    assert retrieval.score(images, [first[4], "not a thing"], among) == (0.0, 0.5)
