"""Random views: crops, color augmentation, and blur against SciPy."""

import dataclasses

import pytest
import torch
from oracles import oracle

from vitkit.data.augment import views

PLAIN = views.ColorAugmentation(
    mean=(0.0,) * 3, std=(1.0,) * 3, jitter=(0.0,) * 4, jitter_probability=0.0, grayscale_probability=0.0
)


def make_images(num: int = 6, size: tuple[int, int] = (20, 24)) -> torch.Tensor:
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(2))


def test_a_full_crop_is_the_image_or_its_mirror_image() -> None:
    images = make_images(size=(16, 16))
    torch.manual_seed(0)
    # A crop of four times the area is limited to the full image.
    crops = views.random_crops(images, (16, 16), (4.0, 4.0))
    found = {
        "same" if torch.allclose(crop, image, atol=1e-5) else "mirrored"
        for crop, image in zip(crops, images, strict=True)
    }
    for crop, image in zip(crops, images, strict=True):
        assert torch.allclose(crop, image, atol=1e-5) or torch.allclose(crop, image.flip(2), atol=1e-5)
    assert found == {"same", "mirrored"}


@pytest.mark.parametrize("scale", [(0.05, 0.4), (0.4, 1.0)])
def test_areas_and_positions_of_crops(scale: tuple[float, float]) -> None:
    # The channels of the image contain the row and the column of each pixel.
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    images = torch.stack([rows, columns])[None].expand(400, -1, -1, -1)
    torch.manual_seed(0)
    crops = views.random_crops(images, (8, 8), scale)
    step_y = (crops[:, 0, 6, 4] - crops[:, 0, 1, 4]) / 5
    step_x = ((crops[:, 1, 4, 6] - crops[:, 1, 4, 1]) / 5).abs()
    area = step_y * step_x * 64 / (60 * 80)
    assert area.min() > scale[0] - 0.02
    assert area.max() < scale[1] + 0.02
    assert area.std() > 0.05
    assert crops.min() > -1
    assert crops[:, 0].max() < 60
    assert crops[:, 1].max() < 80
    assert 0.4 < (crops[:, 1, 4, 6] < crops[:, 1, 4, 1]).float().mean() < 0.6


def test_views_depend_only_on_the_seed() -> None:
    def make(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return views.augment_colors(
            views.random_crops(make_images(), (12, 12), (0.3, 1.0)),
            views.ColorAugmentation(),
            blur_probability=0.5,
            solarize_probability=0.5,
        )

    assert torch.equal(make(3), make(3))
    assert not torch.equal(make(3), make(4))


def test_settings_of_zero_are_the_identity() -> None:
    torch.testing.assert_close(views.augment_colors(make_images(), PLAIN), make_images())
    torch.testing.assert_close(views.jitter(make_images(), (0.0, 0.0, 0.0, 0.0)), make_images())
    numbers = dataclasses.replace(PLAIN, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    mean, std = (torch.tensor(each)[:, None, None] for each in (numbers.mean, numbers.std))
    images = (make_images() - mean) / std
    torch.testing.assert_close(views.augment_colors(images, numbers), images, rtol=1e-4, atol=1e-5)


def test_grayscale_and_solarize() -> None:
    gray = views.augment_colors(make_images(), dataclasses.replace(PLAIN, grayscale_probability=1.0))
    weights = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(gray, torch.einsum("bchw,c->bhw", make_images(), weights)[:, None].expand(-1, 3, -1, -1))
    solarised = views.augment_colors(make_images(), PLAIN, solarize_probability=1.0)
    torch.testing.assert_close(solarised, torch.where(make_images() >= 0.5, 1 - make_images(), make_images()))
    some = views.augment_colors(torch.rand(400, 3, 2, 2) / 2 + 0.5, PLAIN, solarize_probability=0.2)
    assert (some.amax(dim=(1, 2, 3)) <= 0.5).float().mean().item() == pytest.approx(0.2, abs=0.07)


def test_a_hue_rotation_by_120_degrees_permutes_the_channels() -> None:
    rotated = torch.einsum("boc,bchw->bohw", views._rotations(torch.full((6,), 2 * torch.pi / 3)), make_images())
    torch.testing.assert_close(rotated, make_images().roll(1, dims=1), rtol=1e-4, atol=1e-5)


def test_jitter_keeps_gray_images_gray() -> None:
    gray = make_images()[:, :1].expand(-1, 3, -1, -1)
    changed = views.jitter(gray, (0.4, 0.4, 0.4, 0.5))
    torch.testing.assert_close(changed[:, 0], changed[:, 2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed, gray)
    assert views.jitter(make_images()[:, :1], (0.4, 0.4, 0.4, 0.5)).shape == (6, 1, 20, 24)


def test_blur_equals_scipy() -> None:
    ndimage = oracle("scipy.ndimage")
    sigma = torch.tensor([0.3, 1.7])
    blurred = views.blur(make_images(2), sigma)
    for image, ours, each in zip(make_images(2), blurred, sigma, strict=True):
        for channel in range(3):
            theirs = ndimage.gaussian_filter(image[channel].double().numpy(), float(each), mode="mirror", radius=6)
            torch.testing.assert_close(ours[channel].double(), torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)
    assert views.blur(torch.rand(1, 3, 4, 4), torch.tensor([2.0])).shape == (1, 3, 4, 4)
