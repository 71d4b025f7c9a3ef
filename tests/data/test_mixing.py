"""Mixup, CutMix and repeats: naive loops, and the same batches for any workers, processes and resuming."""

from itertools import islice

import numpy as np
import pytest
import torch
from oracles import oracle
from test_loader import Noise, assert_same, concatenate

from vitkit.data.augment import Augment, Transform
from vitkit.data.augment.crop import Crop
from vitkit.data.augment.erasing import Erasing
from vitkit.data.augment.mixing import Mix, Mixing, mix_group, partner, sample_mix
from vitkit.data.augment.photometric import Jitter
from vitkit.data.augment.randaugment import RandAugment
from vitkit.data.loader import Batch, Stream, permutation, training_batches
from vitkit.data.processor import Processor

EVERYTHING = Augment(
    crop=Crop(kind="tensorflow"),
    flip=True,
    three_augment=True,
    randaugment=RandAugment(layers=2, magnitude=10.0),
    jitter=Jitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
    erasing=Erasing(probability=0.5),
    mixing=Mixing(mixup=0.8, cutmix=1.0, probability=0.9),
    repeats=3,
)


def take(num: int, augment: Augment, *, consumed: int = 0, **options: int) -> list[Batch]:
    stream = Stream(**{"batch_size": 8, "seed": 3, **options})
    transform = Transform(Processor.squash(8), augment)
    return list(islice(training_batches(Noise(broken=(5,)), transform, stream, consumed=consumed), num))


CASES = {
    "everything": EVERYTHING,
    "mixup": Augment(mixing=Mixing(mixup=0.5)),
    "cutmix": Augment(flip=True, mixing=Mixing(cutmix=1.0)),
    "pairs": Augment(mixing=Mixing(mixup=0.8, cutmix=1.0, mode="pair"), repeats=3),
    "elements": Augment(mixing=Mixing(mixup=0.8, cutmix=1.0, mode="elem")),
    "repeats": Augment(flip=True, rotate=20.0, repeats=3),
    "randaugment": Augment(randaugment=RandAugment(layers=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_batches_do_not_depend_on_workers_processes_and_resuming(name: str) -> None:
    expected = take(7, CASES[name])
    if name in ("everything", "mixup"):
        assert_same(expected, take(7, CASES[name], workers=2))
    for consumed in (8, 24, 40):
        assert_same(expected[consumed // 8 :], take(7 - consumed // 8, CASES[name], consumed=consumed))
    for world in (2, 4, 8):
        ranks = [take(7, CASES[name], rank=rank, world_size=world) for rank in range(world)]
        combined = [concatenate([ranks[rank][step] for rank in range(world)]) for step in range(7)]
        for one, other in zip(expected, combined, strict=True):
            assert one.keys == other.keys
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets, other.targets)
            # Each process lists its own images: nothing is counted twice.
        replaced = [name for step in range(7) for rank in range(world) for name in ranks[rank][step].unreadable]
        assert replaced == [name for batch in expected for name in batch.unreadable]
    assert any(batch.unreadable for batch in expected)


@pytest.mark.parametrize("repeats", [1, 3])
def test_mixup_mixes_a_batch_with_the_rolled_batch(repeats: int) -> None:
    changes = {"flip": True, "rotate": 30.0, "repeats": repeats}
    plain = take(6, Augment(**changes))
    mixed = take(6, Augment(**changes, mixing=Mixing(mixup=0.5)))
    lams = []
    for one, other in zip(plain, mixed, strict=True):
        partner = [(row - repeats) % 8 for row in range(8)]
        images, targets = one.images.double(), one.targets.double()
        # Recover lambda from the images.
        difference = (images - images[partner]).flatten()
        lam = float((other.images.double() - images[partner]).flatten() @ difference / (difference @ difference))
        for row in range(8):
            expected = lam * images[row] + (1 - lam) * images[partner[row]]
            torch.testing.assert_close(other.images[row].double(), expected, atol=1e-5, rtol=0)
            expected = lam * targets[row] + (1 - lam) * targets[partner[row]]
            torch.testing.assert_close(other.targets[row].double(), expected, atol=1e-5, rtol=0)
            if repeats == 3:  # never with a copy of itself
                assert one.keys[row] != one.keys[partner[row]]
        assert 0.5 <= lam <= 1.0
        lams.append(round(lam, 6))
    assert len(set(lams)) == 6  # a new one each step
    assert [batch.keys for batch in plain] == [batch.keys for batch in mixed]


def test_cutmix_pastes_a_box_and_weights_by_its_area() -> None:
    plain, mixed = take(6, Augment()), take(6, Augment(mixing=Mixing(cutmix=1.0)))
    for one, other in zip(plain, mixed, strict=True):
        partner = one.images.roll(1, 0)
        inside = (other.images != one.images).any(dim=1).any(dim=0)
        rows, columns = np.flatnonzero(inside.any(dim=1)), np.flatnonzero(inside.any(dim=0))
        expected, area = one.images.clone(), 0
        if rows.size:
            top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            expected[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
            area = (bottom - top) * (right - left)
        assert torch.equal(other.images, expected)
        lam = 1 - area / 64
        torch.testing.assert_close(other.targets, lam * one.targets + (1 - lam) * one.targets.roll(1, 0))


def sample_mixes(mixing: Mixing, num: int = 3000) -> list[Mix]:
    random = np.random.default_rng(0)
    return [sample_mix(mixing, (32, 48), random) for _ in range(num)]


def test_distributions_of_lambda() -> None:
    sampled = np.array([mix.lam for mix in sample_mixes(Mixing(mixup=0.4, ratio="sampled"))])
    # Beta(p, p): mean 1/2, variance 1 / (4 (2p + 1)).
    assert abs(sampled.mean() - 0.5) < 0.03
    assert abs(sampled.var() - 1 / (4 * 1.8)) < 0.01
    larger = np.array([mix.lam for mix in sample_mixes(Mixing(mixup=0.4))])
    np.testing.assert_allclose(larger, np.maximum(sampled, 1 - sampled))
    cut = sample_mixes(Mixing(cutmix=1.0))
    for mix in cut:
        assert mix.box is not None
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 48
        assert mix.lam == 1 - (bottom - top) * (right - left) / (32 * 48)
    assert 0.55 < np.mean([mix.lam for mix in cut]) < 0.72  # 0.5 if the border did not clip the boxes


def test_probabilities_of_mixup_and_cutmix() -> None:
    both = sample_mixes(Mixing(mixup=0.8, cutmix=1.0, switch=0.3, probability=0.6))
    none = [mix == Mix() for mix in both]
    cut = [mix.box is not None for mix in both]
    assert abs(np.mean(none) - 0.4) < 0.03
    assert abs(np.mean(cut) - 0.6 * 0.3) < 0.03
    assert not Mixing(mixup=1.0, probability=0.0).active
    assert set(sample_mixes(Mixing(), 10)) == {Mix()}


def test_repeated_augmentation() -> None:
    augment = Augment(flip=True, rotate=30.0, repeats=3)
    batch = concatenate(take(6, augment))
    order = [str(index) if index != 5 else None for epoch in range(3) for index in permutation(23, 3, epoch)[:8]]
    # An epoch still has 23 samples, of 8 images: the last image has two copies.
    for number, key in enumerate(batch.keys):
        epoch, position = divmod(number, 23)
        wanted = order[epoch * 8 + position // 3]
        assert wanted is None or key == wanted
    copies = batch.images[:3] if batch.keys[0] == batch.keys[2] else batch.images[3:6]
    assert not torch.equal(copies[0], copies[1])
    assert not torch.equal(copies[1], copies[2])
    # Samples do not depend on the batch size.
    other = concatenate(take(12, augment, batch_size=4))
    assert torch.equal(batch.images, other.images)
    # The first copy is the sample without repeats.
    single = concatenate(take(3, Augment(flip=True, rotate=30.0)))
    assert torch.equal(single.images[0], batch.images[0])
    assert torch.equal(single.images[1], batch.images[3])


def test_batches_too_small_for_mixing_raise() -> None:
    with pytest.raises(ValueError, match="batch_size 1 is too small for mixing with repeats=1; it must be at least 2"):
        take(1, Augment(mixing=Mixing(mixup=0.2)), batch_size=1)
    with pytest.raises(ValueError, match="batch_size 4 is too small for mixing with repeats=3; it must be at least 6"):
        take(1, Augment(mixing=Mixing(cutmix=0.2), repeats=3), batch_size=4)
    for settings, message in (({"mixup": -0.1}, "mixing.mixup"), ({"switch": 1.5}, "switch 1.5")):
        with pytest.raises(ValueError, match=message):
            Mixing(**settings)


MODES = [(mode, repeats) for mode in ("batch", "pair", "elem") for repeats in (1, 3)]


@pytest.mark.parametrize(("mode", "repeats"), MODES)
def test_every_mode_equals_a_naive_loop(mode: str, repeats: int) -> None:
    changes = {"flip": True, "repeats": repeats}
    mixing = Mixing(mixup=0.8, cutmix=1.0, probability=0.8, ratio="sampled", mode=mode)
    plain, mixed = take(6, Augment(**changes)), take(6, Augment(**changes, mixing=mixing))
    combined = [
        concatenate([take(6, Augment(**changes, mixing=mixing), rank=rank, world_size=4)[step] for rank in range(4)])
        for step in range(6)
    ]
    for step, (one, other) in enumerate(zip(plain, mixed, strict=True)):
        for row in range(8):
            number = partner(row, 8, repeats, mode)
            # Lambda depends on the first sample of the batch, and on the element, its pair or the batch.
            group = {"batch": 0, "pair": 1 + min(row, number), "elem": 1 + row}[mode]
            random = np.random.Generator(np.random.Philox(key=[3, 4], counter=[0, group, step * 8, 0]))
            mix = sample_mix(mixing, (8, 8), random)
            images, targets = one.images.numpy(), one.targets.numpy()
            pair = images[number : number + 1], targets[number : number + 1]
            expected = mix(images[row : row + 1], targets[row : row + 1], pair)
            np.testing.assert_array_equal(other.images[row], expected[0][0])
            np.testing.assert_array_equal(other.targets[row], expected[1][0])
        assert torch.equal(other.images, combined[step].images)
        assert torch.equal(other.targets, combined[step].targets)


def test_partners_in_pair_mode_are_mutual() -> None:
    for size, repeats in ((8, 1), (7, 1), (12, 3), (16, 3), (256, 3)):
        partners = [partner(number, size, repeats, "pair") for number in range(size)]
        assert [partners[each] for each in partners] == list(range(size))
        complete = size - size % (2 * repeats)
        assert all(number // repeats != partners[number] // repeats for number in range(complete))
    assert [partner(number, 4, 1, "batch") for number in range(4)] == [3, 0, 1, 2]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_two_images_are_mixed_as_in_timm(mode: str) -> None:
    """With two images the partners are those of timm, which gets our sampled values of lambda."""
    theirs = oracle("timm.data.mixup")
    images, labels = torch.rand(2, 3, 12, 10), torch.tensor([1, 3])
    for seed in range(40):
        mixing = Mixing(mixup=0.8, cutmix=1.0, ratio="sampled", mode=mode)
        random = [np.random.default_rng([seed, mix_group(row, 2, 1, mode)]) for row in range(2)]
        mixes = [sample_mix(mixing, (12, 10), each) for each in random]
        mixup = theirs.Mixup(0.8, 1.0, mode=mode, label_smoothing=0.1, num_classes=5)
        given = {"batch": mixes[:1], "pair": mixes[:1], "elem": mixes}[mode]
        lams, cut = np.array([mix.lam for mix in given]), np.array([mix.box is not None for mix in given])
        boxes = iter([mix for mix in given if mix.box is not None])
        mixup._params_per_batch = lambda lams=lams, cut=cut: (lams[0], cut[0])
        mixup._params_per_elem = lambda _, lams=lams, cut=cut: (lams.astype(np.float32), cut)
        original = theirs.cutmix_bbox_and_lam
        theirs.cutmix_bbox_and_lam = lambda *_, boxes=boxes, **__: next((mix.box, mix.lam) for mix in boxes)
        try:
            expected, targets = mixup(images.clone(), labels)
        finally:
            theirs.cutmix_bbox_and_lam = original
        ones = torch.eye(5)[labels]
        for row, mix in enumerate(mixes):
            other = slice(1 - row, 2 - row)
            pair = images[other].numpy(), ones[other].numpy()
            found, target = mix(images[row : row + 1].numpy(), ones[row : row + 1].numpy(), pair)
            np.testing.assert_allclose(found[0], expected[row], atol=1e-6)
            smoothed = torch.lerp(torch.from_numpy(target), torch.full_like(ones[:1], 1 / 5), 0.1)
            np.testing.assert_allclose(smoothed[0], targets[row], atol=1e-6)
