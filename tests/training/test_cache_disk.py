"""A cache of frozen outputs on a disk that is full, shared or odd, and for what it is refused."""

import errno
import os
from dataclasses import replace

import pytest
import torch
from cached_views import FLIPS, PLAIN, check_equal, files_of, opened, training_data
from narrow import pixels

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.training import cache as cache_module
from mask_frozen_detr.training.cache import CACHE_FILE, GB, FrozenCache
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.samples import Sample, collate

# --- the disk ---


def test_more_than_the_limit_is_refused(model, scenes, tmp_path):
    dataset = training_data(model, scenes[0], FLIPS)
    total = FrozenCache(tmp_path, model).bytes_a_view(dataset) * 2 * len(dataset) / GB
    FrozenCache(tmp_path / "fits", model, 1.01 * total).open(dataset)
    views = f"{2 * len(dataset)} views of {len(dataset)} images"
    with pytest.raises(
        UserError, match=rf"cache: {views}, .* about {total:.2f} GB, more than the limit.*--cache-limit"
    ):
        FrozenCache(tmp_path / "more", model, 0.99 * total).open(dataset)
    assert not (tmp_path / "more").exists()
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"cache_limit: found .*, expected a positive number"):
            FrozenCache(tmp_path, model, limit)


def test_a_disk_without_room_is_named_before_the_start(model, scenes, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"has 0\.00 GB left; make room"):
        opened(tmp_path / "cache", model, scenes[0])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up(call, model, scenes, tmp_path, monkeypatch):
    """A clear error, and nothing that could be taken for a view."""
    cache, dataset = opened(tmp_path, model, scenes[0])
    sample = dataset[0, 0]

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(f"mask_frozen_detr.machine.files.os.{call}", full)
        with pytest.raises(UserError, match=rf"{sample.view}.*cannot be written: No space left on device"):
            cache.batch([sample])
    assert {path.name for path in cache.store.folder.iterdir()} == {CACHE_FILE}
    cache.batch([sample])  # once there is room
    assert len(files_of(cache)) == 1


def test_sizes_that_no_memory_holds_are_estimated_all_the_same(model, scenes, tmp_path):
    """The file says 300,000 × 300,000 pixels (270 GB): the estimate takes none of them, the picture is one line."""
    record, other = [r for r in scenes[0].images if any(a.category_id <= 3 for a in r.annotations)][:2]
    hostile = replace(record, width=300_000, height=300_000)
    cache, dataset = opened(tmp_path, model, replace(scenes[0], images=[hostile, other]))
    batch = cache.batch([dataset[0, 0], dataset[1, 1]])
    assert [str(record.path) in problem for problem in batch.problems] == [True]


def test_links_in_its_place_are_replaced_not_followed(model, scenes, tmp_path):
    cache, dataset = opened(tmp_path / "cache", model, scenes[0])
    first = cache.batch([dataset[0, 0]])
    (path,) = cache.store.folder.glob("*.safetensors")
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    path.unlink()
    path.symlink_to(theirs)
    with pytest.warns(UserWarning, match="is damaged"):
        check_equal(cache.batch([dataset[0, 0]]), first)
    assert theirs.read_bytes() == b"theirs"
    assert not path.is_symlink()


def test_what_is_no_file_is_not_waited_for(model, scenes, tmp_path):
    cache, dataset = opened(tmp_path, model, scenes[0])
    sample = dataset[0, 0]
    assert sample.view is not None
    os.mkfifo(cache.store.path(sample.view))
    place = cache.store.path(sample.view)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(UserError, match="is a pipe or a device"):
        cache.batch([sample])
    assert place.is_fifo(), "it is the user's"


def test_two_runs_fill_one_cache(model, scenes, tmp_path):
    """Both made the view before either had written it: the same bytes, whoever was first."""
    (one, data), (other, other_data) = (opened(tmp_path, model, scenes[0]) for _ in range(2))
    sample, theirs = data[0, 0], other_data[0, 0]
    assert isinstance(sample.image, torch.Tensor)
    assert isinstance(theirs.image, torch.Tensor)
    first = one.batch([sample])
    stored = files_of(one)
    assert sample.view is not None
    path = one.store.path(sample.view)
    path.unlink()
    check_equal(other.batch([theirs]), first)
    check_equal(one.batch([sample]), first)
    assert files_of(one) == stored


def test_a_folder_that_cannot_be_made(model, scenes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        opened(tmp_path / "file", model, scenes[0])


def test_what_killed_writes_left_is_swept_away(model, scenes, tmp_path):
    cache, dataset = opened(tmp_path, model, scenes[0])
    name, random = f"{'0' * 32}-10x10", "0123456789abcdef"
    old, new = (cache.store.folder / f".{name}{flip}.{random}.part.safetensors" for flip in ("", "-flipped"))
    theirs = cache.store.folder / ".notes.part.safetensors"
    for path in (old, new, theirs):
        path.write_bytes(b"half")
    for path in (old, theirs):
        os.utime(path, (0, 0))
    assert "(0 are there)" in cache.open(dataset)
    assert not old.exists()
    assert new.exists(), "another run may be writing it"
    assert theirs.exists(), "nothing that a cache did not write"


# --- what it cannot be used with ---


def test_only_the_flip_is_left_of_the_augmentation():
    assert FrozenCache.augment(AugmentConfig()) == FLIPS
    assert FrozenCache.augment(AugmentConfig(flip=False)) == PLAIN
    refused = {True: AugmentConfig(large_scale_jitter=True), 0.2: AugmentConfig(colour_jitter=0.2)}
    for value, config in refused.items():
        with pytest.raises(UserError, match=f"jitter: found {value}, but with --cache"):
            FrozenCache.augment(config)


def test_views_that_never_repeat_are_refused(model, scenes, tmp_path):
    with pytest.raises(ValueError, match=r"FrozenCache\.augment"):
        opened(tmp_path, model, scenes[0], AugmentConfig())


def test_a_detector_that_learns_is_refused(model, scenes, tmp_path):
    parameter = next(model.detector.parameters()).requires_grad_(True)
    try:
        with pytest.raises(UserError, match="cache: found a detector that is fine-tuned"):
            opened(tmp_path / "cache", model, scenes[0])
    finally:
        parameter.requires_grad_(False)
    assert not (tmp_path / "cache").exists()


def test_samples_without_a_cache_are_as_before(model, scenes):
    sample = training_data(model, scenes[0])[0, 0]
    assert isinstance(sample, Sample)
    assert sample.view is None
    assert isinstance(sample.image, torch.Tensor)
    assert torch.equal(pixels(collate([sample])), sample.image[None])
