import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gvit.train.guidance.reconstruction import ms_ssim


def images(side, seed=0):
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.uniform(size=(2, 3, side, side)), (0, 0, 2, 2))
    return torch.from_numpy((smooth - smooth.min()) / np.ptp(smooth)).float()


@pytest.mark.parametrize("side", [11, 32, 112])
def test_equal_images_are_entirely_similar(side):
    one = images(side)
    torch.testing.assert_close(ms_ssim(one, one), torch.ones(2))


def test_similarity_falls_with_noise_whatever_the_size():
    for side in (16, 64, 192):
        one = images(side)
        noise = torch.from_numpy(np.random.default_rng(1).normal(size=one.shape)).float()
        found = [float(ms_ssim(one, one + level * noise).mean()) for level in (0.0, 0.02, 0.1, 0.3)]
        assert found == sorted(found, reverse=True)
        assert found[-1] < 0.8


def test_one_scale_is_the_structural_similarity_of_scikit_image():
    """At 16 pixels a single scale fits; scikit-image's window is cut off at the same 11 pixels."""
    metrics = pytest.importorskip("skimage.metrics")
    one, other = images(16), images(16) * 0.8 + images(16, 1) * 0.2
    _, full = zip(
        *(
            metrics.structural_similarity(
                a.numpy(),
                b.numpy(),
                channel_axis=0,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                full=True,
            )
            for a, b in zip(one, other, strict=True)
        ),
        strict=True,
    )
    expected = [part[:, 5:-5, 5:-5].mean() for part in full]
    np.testing.assert_allclose(ms_ssim(one, other).numpy(), expected, atol=2e-5)


def test_it_has_a_gradient():
    one = images(32).requires_grad_()
    ms_ssim(one, images(32, 1)).sum().backward()
    assert torch.isfinite(one.grad).all()
    assert one.grad.abs().max() > 0
