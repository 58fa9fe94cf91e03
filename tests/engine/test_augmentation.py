"""Augmentation of training images: a pure function of (seed, epoch, index), on torchvision's transforms."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from engine.data import BatchStream, DataConfig, ImageSet, Item, evaluation_batches, open_images
from engine.data.augmentation import Augmentation, augmented
from engine.errors import InvalidError
from tests.engine.image_folder import write_images

STRONG = Augmentation("randaugment", magnitude=20, erasing=0.5)


@pytest.fixture(params=["in memory", "files"])
def images(request, tmp_path) -> ImageSet:
    config = DataConfig(name="fake", fake_images=24)
    if request.param == "files":
        config = DataConfig(name="folder", root=write_images(tmp_path / "images", 12, size=40))
    classes = 10 if request.param == "in memory" else 2
    return open_images(config, input_size=16, channels=3, classes=classes).train


@pytest.mark.parametrize("policy", ["jitter", "randaugment", "trivialaugment"])
def test_an_augmented_image_is_a_function_of_its_item(images, policy):
    """The rest of its batch and the global generators change nothing; another epoch or index does."""
    some = augmented(images, Augmentation(policy, erasing=0.5))
    items = [Item(3, 1, i) for i in range(8)]
    together = some.load(items, augment=True).images
    torch.manual_seed(5)
    state = torch.get_rng_state()
    alone = torch.cat([some.load([item], augment=True).images for item in reversed(items)]).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(together, some.load([Item(3, 2, i) for i in range(8)], augment=True).images)
    plain = images.load(items, augment=True).images
    assert not torch.equal(together, plain)
    assert torch.equal(some.load(items, augment=False).images, images.load(items, augment=False).images)


def test_the_default_augmentation_is_that_of_a_set_without_one(images):
    items = [Item(3, 1, i) for i in range(8)]
    before = images.load(items, augment=True).images
    assert torch.equal(augmented(images, Augmentation()).load(items, augment=True).images, before)


def test_processes_give_the_batches_of_the_program_itself(images):
    batches = []
    for workers in (0, 2):
        stream = BatchStream(augmented(images, STRONG), batch_size=6, seed=1, workers=workers)
        batches.append([next(stream).images for _ in range(5)])
        stream.close()
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_a_policy_of_a_file_is_torchvisions_transform_under_the_items_seed(tmp_path):
    """crop, mirror, RandAugment, erasing, drawn one after the other from one seeded generator."""
    from engine.data.images import AUGMENTATION
    from engine.data.pictures import read_picture
    from engine.seeding import mix

    config = DataConfig(name="folder", root=write_images(tmp_path / "images", 2, size=40))
    images = augmented(open_images(config, input_size=16, channels=3, classes=2).train, STRONG)
    (found,) = images.load([Item(4, 2, 1)], augment=True).images
    mean = [round(255 * m) for m in images.preprocessing.mean]
    torch.manual_seed(mix(4, 2, 1, AUGMENTATION))
    pixels = v2.PILToTensor()(read_picture(images.path(1), 3))
    pixels = v2.RandomHorizontalFlip()(v2.RandomResizedCrop(16, scale=(0.08, 1.0))(pixels))
    torch.rand(2)  # brightness and saturation, of which this policy makes no use
    picture = v2.ToPILImage()(pixels)
    picture = v2.RandAugment(2, 20, interpolation=v2.InterpolationMode.BILINEAR, fill=mean)(picture)
    pixels = v2.RandomErasing(0.5, value=mean)(v2.PILToTensor()(picture))
    assert torch.equal(found, images.preprocessing.normalised(pixels[None])[0])


def test_erasing_leaves_the_mean_colour(images):
    """With probability 1, a rectangle of each image has the mean colour, which normalises to about 0."""
    erased = augmented(images, Augmentation("none", erasing=1.0)).load([Item(0, 0, i) for i in range(6)], augment=True)
    plain = augmented(images, Augmentation("none")).load([Item(0, 0, i) for i in range(6)], augment=True)
    changed = (erased.images != plain.images).any(dim=1, keepdim=True).expand_as(erased.images)
    assert changed.any(dim=(1, 2, 3)).all()
    assert not changed.all(dim=(1, 2, 3)).any()
    assert erased.images[changed].abs().max() < 0.02


def test_training_images_grow_and_evaluated_ones_keep_their_size(images):
    growing = augmented(images, Augmentation(sizes=(8, 12, 16), epochs=4))
    sizes = [growing.load([Item(0, epoch, 0)], augment=True).images.shape[-1] for epoch in range(5)]
    assert sizes == [8, 8, 12, 16, 16]  # the quarters 0, 1/4 of a third each; 4 is past the end
    assert next(evaluation_batches(growing, 4, 0)).images.shape[-1] == 16


def test_a_policy_for_other_images_than_grey_and_rgb_is_refused():
    images = open_images(DataConfig(name="fake", fake_images=24), input_size=8, channels=2, classes=10).train
    with pytest.raises(InvalidError, match="got jitter for images of 2 colours"):
        augmented(images, Augmentation("jitter"))
    assert augmented(images, Augmentation("none", erasing=0.5)).load([Item(0, 0, 0)], augment=True).images.shape[1] == 2
