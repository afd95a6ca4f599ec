"""Feature networks: transformers models as they are, and the miniature's own."""

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from sets_on_disk import picture
from tdd_cli.bundled.emoji import GUIDANCE, captions, dataset, features
from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.evaluation.networks import load_network
from tdd_cli.evaluation.protocol import choose
from tdd_cli.evaluation.reference import Real
from tdd_cli.evaluation.sets import open_set
from tdd_cli.evaluation.statistics import frechet, mean_kernel, polynomial_mmd
from tdd_cli.families import load_family
from tdd_cli.generate import draw
from tdd_cli.pictures import to_images
from tdd_cli.sampling import Sampling
from tiny import MAX_TOKENS, _tokenizer, _vocabulary


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A random CLIP, saved as on the hub."""
    folder = tmp_path_factory.mktemp("clip")
    text = CLIPTextConfig(
        vocab_size=len(_vocabulary()), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=MAX_TOKENS, eos_token_id=1,
        bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    _processor().save_pretrained(folder)
    _tokenizer(folder, "<|endoftext|>").save_pretrained(folder)
    return folder


def _processor():
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def test_a_clip_gives_its_own_embeddings(clip):
    network = load_network(str(clip))
    images = [picture(i, (48, 40)) for i in range(3)]
    model = CLIPModel.from_pretrained(clip).eval()
    pixels = _processor()(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    assert torch.allclose(network.of(images), expected, atol=1e-5)
    assert network.embed(network.of(images)).norm(dim=1).tolist() == pytest.approx([1.0] * 3)


def test_captions_that_are_too_long_keep_their_end(clip):
    network = load_network(str(clip))
    long = "a fox on a tree in the sun " * 4
    tokenizer, model = _tokenizer(clip / "again", "<|endoftext|>"), CLIPModel.from_pretrained(clip).eval()
    ids = tokenizer(long).input_ids
    cut = torch.tensor([[*ids[: MAX_TOKENS - 1], tokenizer.eos_token_id]])
    with torch.no_grad():
        expected = model.text_projection(model.text_model(cut).pooler_output)
    found = network.texts([long, "a fox"])
    assert torch.allclose(found[0], torch.nn.functional.normalize(expected, dim=1)[0], atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_other_models_give_their_pooled_output_and_read_no_captions(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(
        tmp_path
    )
    network = load_network(str(tmp_path))
    assert network.of([picture(0), picture(1)]).shape == (2, 16)
    assert network.embed_texts is None


def test_weights_are_told_apart_by_their_content(clip, tmp_path):
    torch.manual_seed(1)
    other = CLIPModel(CLIPModel.from_pretrained(clip).config)
    other.save_pretrained(tmp_path)
    _processor().save_pretrained(tmp_path)
    _tokenizer(tmp_path, "<|endoftext|>").save_pretrained(tmp_path)
    assert load_network(str(clip)).sha256 == load_network(str(clip)).sha256
    assert load_network(str(clip)).sha256 != load_network(str(tmp_path)).sha256


def test_a_network_without_its_vocabulary_is_refused(clip, tmp_path):
    CLIPModel.from_pretrained(clip).save_pretrained(tmp_path)
    _processor().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="has no tokenizer: 2 words of"):
        load_network(str(tmp_path))


def test_folders_that_are_no_network_and_names_nobody_has(tmp_path):
    with pytest.raises(UsageError, match="not a feature network"):
        load_network(str(tmp_path))
    with pytest.raises(MissingComponent, match="nobody/nothing") as caught:
        load_network("nobody/nothing")
    assert "--features METRIC=DIR" in caught.value.hint


@pytest.fixture(scope="module")
def emoji():
    found = dataset.load()
    return found.images[::9], found.rows[::9]


def test_the_miniatures_network_tells_true_captions_from_shuffled_ones(emoji):
    images, rows = emoji
    network = load_network("emoji")
    texts = [captions.caption(row, torch.Generator().manual_seed(i)) for i, row in enumerate(rows)]
    drawn = dataset.displaced(images, torch.Generator().manual_seed(5))
    with torch.no_grad():
        pictures = network.embed(torch.cat([network.features(part) for part in drawn.split(64)]))
    found = network.texts(texts)
    true, false = (pictures * found).sum(1).mean(), (pictures * found.roll(7, 0)).sum(1).mean()
    assert true > false + 0.3


def test_the_miniatures_network_finds_real_pictures_near_themselves_and_spoilt_ones_far(emoji):
    network, images = features.load(), emoji[0]

    def of(pixels):
        with torch.no_grad():
            return torch.cat([network.pooled(part) for part in pixels.split(64)])

    def apart(pixels):
        return polynomial_mmd(of(pixels), real, mean_kernel(real))[0]

    real = of(dataset.displaced(images, torch.Generator().manual_seed(0)))
    again = apart(dataset.displaced(images, torch.Generator().manual_seed(1)))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    assert again < 0.2 * apart(torch.nn.functional.avg_pool2d(images, 3, 1, 1))
    assert again < 0.2 * apart((images + 0.1 * noise).clamp(-1, 1))


def test_the_teacher_lies_between_real_pictures_and_its_own_in_four_steps():
    rules, network = choose(open_set("emoji"), 96), load_network("emoji")
    pictures = rules.set.reference.pictures
    real = Real(rules.set, [network])
    list(real.fill())

    def fid(pixels):
        return frechet(network.of(to_images(pixels)), real.moments(network))

    def drawn(steps):
        sampling = Sampling(steps=steps, guidance=GUIDANCE)
        return draw(load_family("sdxl", "bundled:emoji"), rules.captions, range(96), sampling)

    others = dataset.displaced(pictures.images[:96], torch.Generator().manual_seed(1))
    assert fid(others) + 0.1 < fid(drawn(20)) < fid(drawn(4)) - 0.2


def test_no_word_is_unknown_to_it():
    network = load_network("emoji")
    found = network.texts(["zyxqv", "", "a fox", "FOX a"])
    assert torch.isfinite(found).all()
    assert torch.allclose(found[2], found[3], atol=1e-5)  # neither case nor order counts
