"""Inception 2015-12-05: torch-fidelity's graph, and weights that are the published ones or refused."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.evaluation import inception


def random_state(net):
    """Weights by seed, such that signals keep their size."""
    generator = Generator().manual_seed(0)
    state = {}
    for name, value in net.state_dict().items():
        if value.dtype != torch.float32:
            state[name] = value
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        elif value.ndim > 1:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
    return state


def test_its_features_are_those_of_torch_fidelity():
    """torch-fidelity 0.4.0 gave these on the same weights and pixels; its probabilities agreed too."""
    net = inception.Inception().eval()
    net.load_state_dict(random_state(net))
    pixels = torch.randint(0, 256, (1, 3, 299, 299), generator=Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        features = net(pixels.float())
        top = net.probabilities(features).max().item()
    assert features.shape == (1, 2048)
    assert features.mean().item() == pytest.approx(MEAN, rel=1e-4)
    assert features[0, [2, 3, 100, 2047]].tolist() == pytest.approx(SOME, rel=1e-3, abs=1e-3)
    assert top == pytest.approx(TOP, rel=1e-3)


def test_its_features_are_those_of_torch_fidelity_where_it_is_installed(tmp_path):
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    ours = inception.Inception().eval()
    ours.load_state_dict(random_state(ours))
    torch.save(ours.state_dict(), tmp_path / "weights.pth")
    extract = theirs.FeatureExtractorInceptionV3("inception", ["2048"], str(tmp_path / "weights.pth"))
    pixels = torch.randint(0, 256, (2, 3, 299, 299), generator=Generator().manual_seed(2), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels.float()), extract(pixels)[0], rtol=1e-4, atol=1e-4)


MEAN, SOME, TOP = 3.517353, [0.049612, 15.212732, 11.726766, 4.503437], 0.976522


def test_it_has_the_published_files_tensors():
    net = inception.Inception()
    assert sum(parameter.numel() for parameter in net.parameters()) == 23_850_960
    names = set(net.state_dict())
    assert len(names) == 566
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_6b.branch7x7dbl_5.bn.running_var", "fc.bias"} <= names
    assert {"Mixed_7c.branch3x3dbl_3b.conv.weight", "Mixed_5d.branch_pool.conv.weight"} <= names


def test_pictures_are_resized_in_float_by_pillow():
    gradient = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1))
    image = Image.fromarray(np.stack([gradient, 255 - gradient, gradient // 2], axis=-1))
    pixels = inception.prepare(image)
    assert pixels.shape == (3, 299, 299)
    assert len(pixels[0].unique()) > 256  # finer than bytes
    assert torch.allclose(pixels[0] + pixels[1], torch.tensor(255.0), atol=1e-3)


def test_other_weights_are_refused_unopened(tmp_path):
    wrong = tmp_path / "weights.pth"
    wrong.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UsageError, match="not Inception 2015-12-05"):
        inception.read(wrong)
    with pytest.raises(UsageError, match="there is no file"):
        inception.read(tmp_path / "absent.pth")


def test_the_right_weights_are_read(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    state = random_state(inception.Inception())
    torch.save(state, path)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert torch.equal(inception.read(path)["fc.weight"], state["fc.weight"])


def test_without_a_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(MissingComponent) as caught:
        inception.weights_file()
    assert "no route to host" in caught.value.message
    assert str(tmp_path / "tdd" / inception.NAME) in caught.value.hint
    assert list(tmp_path.rglob("*.pth")) == []
