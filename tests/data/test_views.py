"""Random views: crops that stay inside, colours that do what their names say, blur against SciPy's."""

import dataclasses

import pytest
import torch

from vitkit.data.augment import views

PLAIN = views.Colours(mean=(0.0,) * 3, std=(1.0,) * 3, jitter=(0.0,) * 4, jittered=0.0, grey=0.0)


def pictures(num: int = 6, size: tuple[int, int] = (20, 24)) -> torch.Tensor:
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(2))


def test_the_whole_picture_is_itself_or_its_mirror_image() -> None:
    images = pictures(size=(16, 16))
    torch.manual_seed(0)
    # A crop of four times the area is cut to the whole.
    crops = views.random_crops(images, (16, 16), (4.0, 4.0))
    found = {
        "same" if torch.allclose(crop, image, atol=1e-5) else "mirrored"
        for crop, image in zip(crops, images, strict=True)
    }
    for crop, image in zip(crops, images, strict=True):
        assert torch.allclose(crop, image, atol=1e-5) or torch.allclose(crop, image.flip(2), atol=1e-5)
    assert found == {"same", "mirrored"}


@pytest.mark.parametrize("scale", [(0.05, 0.4), (0.4, 1.0)])
def test_areas_and_places_of_crops(scale: tuple[float, float]) -> None:
    # The picture tells where each pixel comes from: its row and its column.
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


def test_the_same_seed_gives_the_same_views() -> None:
    def make(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return views.recolour(
            views.random_crops(pictures(), (12, 12), (0.3, 1.0)), views.Colours(), blurred=0.5, solarised=0.5
        )

    assert torch.equal(make(3), make(3))
    assert not torch.equal(make(3), make(4))


def test_nothing_asked_for_changes_nothing() -> None:
    torch.testing.assert_close(views.recolour(pictures(), PLAIN), pictures())
    torch.testing.assert_close(views.jitter(pictures(), (0.0, 0.0, 0.0, 0.0)), pictures())
    numbers = dataclasses.replace(PLAIN, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    mean, std = (torch.tensor(each)[:, None, None] for each in (numbers.mean, numbers.std))
    images = (pictures() - mean) / std
    torch.testing.assert_close(views.recolour(images, numbers), images, rtol=1e-4, atol=1e-5)


def test_grey_and_solarised() -> None:
    grey = views.recolour(pictures(), dataclasses.replace(PLAIN, grey=1.0))
    weights = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(grey, torch.einsum("bchw,c->bhw", pictures(), weights)[:, None].expand(-1, 3, -1, -1))
    solarised = views.recolour(pictures(), PLAIN, solarised=1.0)
    torch.testing.assert_close(solarised, torch.where(pictures() >= 0.5, 1 - pictures(), pictures()))
    some = views.recolour(torch.rand(400, 3, 2, 2) / 2 + 0.5, PLAIN, solarised=0.2)
    assert (some.amax(dim=(1, 2, 3)) <= 0.5).float().mean().item() == pytest.approx(0.2, abs=0.07)


def test_a_third_of_a_turn_of_the_hue_changes_the_colours_around() -> None:
    turned = torch.einsum("boc,bchw->bohw", views._rotations(torch.full((6,), 2 * torch.pi / 3)), pictures())
    torch.testing.assert_close(turned, pictures().roll(1, dims=1), rtol=1e-4, atol=1e-5)


def test_jitter_keeps_grey_pictures_grey() -> None:
    grey = pictures()[:, :1].expand(-1, 3, -1, -1)
    changed = views.jitter(grey, (0.4, 0.4, 0.4, 0.5))
    torch.testing.assert_close(changed[:, 0], changed[:, 2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed, grey)
    assert views.jitter(pictures()[:, :1], (0.4, 0.4, 0.4, 0.5)).shape == (6, 1, 20, 24)


def test_blur_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    sigma = torch.tensor([0.3, 1.7])
    blurred = views.blur(pictures(2), sigma)
    for image, ours, each in zip(pictures(2), blurred, sigma, strict=True):
        for channel in range(3):
            theirs = ndimage.gaussian_filter(image[channel].double().numpy(), float(each), mode="mirror", radius=6)
            torch.testing.assert_close(ours[channel].double(), torch.from_numpy(theirs), rtol=1e-4, atol=1e-5)
    assert views.blur(torch.rand(1, 3, 4, 4), torch.tensor([2.0])).shape == (1, 3, 4, 4)
