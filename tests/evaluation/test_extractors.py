import pytest
import torch

from slimdiff.evaluation.extractors import RandomConvExtractor, TorchScriptExtractor


def test_random_features_are_blind_to_brightness_and_colour_but_not_to_texture():
    extractor = RandomConvExtractor()
    x = torch.rand(4, 3, 32, 32) - 0.5
    features = extractor(x)
    assert features.shape == (4, extractor.num_features)
    shift = torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(extractor(x + shift), features, rtol=1e-4, atol=1e-5)
    assert extractor(torch.full((1, 3, 32, 32), 0.7)).abs().max() < 1e-6
    assert (extractor(0.5 * x) - features).abs().max() > 0.05


def test_random_weights_are_the_same_every_time_and_differ_by_seed():
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(RandomConvExtractor(seed=3)(x), RandomConvExtractor(seed=3)(x), rtol=0, atol=0)
    assert not torch.allclose(RandomConvExtractor(seed=3)(x), RandomConvExtractor(seed=4)(x))
    # One weight by value: a change of the generator would silently make old figures incomparable.
    assert RandomConvExtractor(channels=(2,)).weight0[0, 0, 0, 0].item() == pytest.approx(-0.1688778, abs=1e-6)


def test_too_small_an_image_names_the_size():
    with pytest.raises(ValueError, match='at least 20 pixels'):
        RandomConvExtractor()(torch.zeros(1, 3, 16, 16))


def test_torchscript_extractor_equals_the_network(tmp_path):
    network = torch.nn.Conv2d(3, 5, 3, stride=2)
    path = str(tmp_path / 'net.pt')
    torch.jit.trace(network, torch.zeros(1, 3, 16, 16)).save(path)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(TorchScriptExtractor(path)(x), network(x).mean((2, 3)))
    scaled = TorchScriptExtractor(path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.2, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(scaled(x), network((x / 2 + 0.5 - mean) / std).mean((2, 3)))
    assert TorchScriptExtractor(path, image_size=8)(x).shape == (2, 5)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match='is not a file'):
        TorchScriptExtractor(str(tmp_path / 'none.pt'))
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / 'state.pt')
    with pytest.raises(ValueError, match='TorchScript'):
        TorchScriptExtractor(str(tmp_path / 'state.pt'))
    (tmp_path / 'text.pt').write_text('hello')
    with pytest.raises(ValueError, match='TorchScript'):
        TorchScriptExtractor(str(tmp_path / 'text.pt'))
