"""Frozen outputs on disk: the detector's own up to bf16, the same numbers at every use, and never another's."""

import errno
import json
import os
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_squashing_detector
from folders import read_metrics
from narrow import detections, pixels
from nursery import NURSERY, run_main
from torch.utils.data import DataLoader

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, UserError, load_detector
from mask_frozen_detr.cli import main
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.training import cache as cache_module
from mask_frozen_detr.training import frozen_views
from mask_frozen_detr.training import samples as dataset_module
from mask_frozen_detr.training.cache import CACHE_FILE, GB, FrozenCache
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.frozen_views import FrozenView, ViewStore
from mask_frozen_detr.training.samples import Batch, Sample, TrainingData, collate

PLAIN = AugmentConfig(flip=False, multi_scale=False, crop=False)
FLIPS = AugmentConfig(multi_scale=False, crop=False)


@pytest.fixture(scope="module", params=["squashing", "padding"])
def model(request, tiny_network) -> MaskFrozenDetr:
    torch.manual_seed(0)
    return MaskFrozenDetr.build(request.getfixturevalue(request.param), tiny_network)


@pytest.fixture(scope="module")
def small(squashing, tiny_network) -> MaskFrozenDetr:
    return MaskFrozenDetr.build(squashing, tiny_network)


def training_data(model: MaskFrozenDetr, data, augment: AugmentConfig = PLAIN) -> TrainingData:
    info = model.detector.info
    return TrainingData(data, classes_of(data, info.class_names), info.preprocessing, augment, 0)


def opened(
    folder: Path, model: MaskFrozenDetr, data, augment: AugmentConfig = PLAIN
) -> tuple[FrozenCache, TrainingData]:
    cache, dataset = FrozenCache(folder, model), training_data(model, data, augment)
    cache.open(dataset)
    return cache, dataset


def files_of(cache: FrozenCache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.store.folder.glob("*.safetensors")}


def tensors(found: Detections) -> list[torch.Tensor]:
    parts = [found.queries, found.logits, found.boxes, *found.features, found.stem, found.pixels]
    return [part for part in parts if part is not None]


def check_equal(first: Batch, second: Batch) -> None:
    assert isinstance(first.images, Detections)
    assert isinstance(second.images, Detections)
    pairs = list(zip(tensors(first.images), tensors(second.images), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(first.pixel_mask, second.pixel_mask)
    for a, b in zip(first.targets, second.targets, strict=True):
        assert all(torch.equal(getattr(a, key), getattr(b, key)) for key in ("boxes", "labels", "masks"))


# --- what is kept ---


def test_the_detectors_own_outputs(model, scenes, tmp_path):
    """Of each image alone, up to bf16; boxes to the bit."""
    cache, dataset = opened(tmp_path, model, scenes[0])
    samples = [dataset[index, index] for index in range(3)]
    batch, plain = cache.batch(samples), collate(samples)
    found = detections(batch)
    assert torch.equal(batch.pixel_mask, plain.pixel_mask)
    assert batch.pixel_mask.dtype == plain.pixel_mask.dtype
    together = model.detector(plain.images, plain.pixel_mask)
    assert [part.shape for part in (found.queries, found.logits, found.boxes, *found.features)] == [
        part.shape for part in (together.queries, together.logits, together.boxes, *together.features)
    ]
    for b, sample in enumerate(samples):
        alone = collate([sample])
        expected = model.detector(alone.images, alone.pixel_mask)
        assert torch.equal(found.boxes[b], expected.boxes[0])
        for mine, reference in [
            (found.queries, expected.queries),
            (found.logits, expected.logits),
            *zip(found.features, expected.features, strict=True),
            *([(found.stem, expected.stem)] if cache.stem else []),
        ]:
            assert mine is not None
            assert reference is not None
            assert mine.dtype == torch.float32
            part = mine[b]
            if part.ndim == 3:
                height, width = reference.shape[2:]
                assert not part[:, height:].any()
                assert not part[:, :, width:].any()
                part = part[:, :height, :width]
            torch.testing.assert_close(part, reference[0], rtol=2**-8, atol=1e-6)
            assert not torch.equal(part, reference[0]), "stored in bf16"


def test_the_first_use_is_the_same_as_all_others(model, scenes, tmp_path):
    """Or a run that was killed and resumed would see other numbers than one that was not."""
    cache, dataset = opened(tmp_path, model, scenes[0], FLIPS)
    order = [(index, number) for number, index in enumerate([0, 1, 2, 0])]
    first = cache.batch([dataset[item] for item in order])
    stored = files_of(cache)
    assert 3 <= len(stored) <= 4
    other, other_data = opened(tmp_path, model, scenes[0], FLIPS)
    again = [other_data[item] for item in order]
    assert all(isinstance(sample.image, FrozenView) for sample in again)
    check_equal(other.batch(again), first)
    assert files_of(other) == stored
    elsewhere, elsewhere_data = opened(tmp_path / "elsewhere", model, scenes[0], FLIPS)
    alone = [elsewhere.batch([elsewhere_data[item]]) for item in order]
    assert files_of(elsewhere) == stored, "whatever the batch"
    assert len(alone) == 4


def test_what_is_there_is_neither_decoded_nor_detected(small, scenes, tmp_path, monkeypatch):
    cache, dataset = opened(tmp_path, small, scenes[0])
    first = cache.batch([dataset[0, 0], dataset[1, 1]])

    def never(*_args, **_options):
        raise AssertionError("this is what the cache shall save")

    monkeypatch.setattr(dataset_module, "open_picture", never)
    monkeypatch.setattr(type(small.detector), "detect", never)
    check_equal(cache.batch([dataset[0, 0], dataset[1, 1]]), first)
    assert "this is what the cache shall save" in str(dataset[2, 2].problem)


def test_flips_are_views_of_their_own(small, scenes, tmp_path):
    cache, dataset = opened(tmp_path, small, scenes[0], FLIPS)
    uncached = training_data(small, scenes[0], FLIPS)
    seen: dict[str, tuple[int, torch.Tensor]] = {}
    for number in range(12):
        sample = dataset[0, number]
        reference = uncached[0, number]
        for key in ("boxes", "labels", "masks"):
            assert torch.equal(getattr(sample.targets, key), getattr(reference.targets, key))
        found = detections(cache.batch([sample]))
        alone = collate([reference])
        expected = small.detector(alone.images, alone.pixel_mask)
        assert sample.view is not None
        assert torch.equal(found.boxes, expected.boxes)
        seen[sample.view] = (number, found.boxes)
    assert len(seen) == len(files_of(cache)) == 2
    (_, plain), (_, mirrored) = seen.values()
    assert not torch.equal(plain, mirrored)


def test_a_stem_learned_from_pixels_gets_them(padding, scenes, tmp_path):
    network = MaskNetworkConfig(image_layers=1, box_layers=1, mask_width=8, roi_size=8, stem_from="pixels")
    model = MaskFrozenDetr.build(padding, network)
    cache, dataset = opened(tmp_path, model, scenes[0])
    samples = [dataset[index, index] for index in range(2)]
    batch, plain = cache.batch(samples), collate(samples)
    assert detections(batch).stem is None
    torch.testing.assert_close(detections(batch).pixels, plain.images, rtol=2**-8, atol=1e-6)
    check_equal(cache.batch([dataset[index, index] for index in range(2)]), batch)
    image_index, query_index = torch.tensor([0, 0, 1]), torch.tensor([3, 4, 5])
    output = model.network(batch.images, batch.pixel_mask, image_index, query_index)
    assert output.logits.isfinite().all()


def test_loader_processes_read_it(model, scenes, tmp_path):
    cache, dataset = opened(tmp_path, model, scenes[0], FLIPS)
    items = [[(index, index), (index + 1, index + 1)] for index in (0, 2, 4)]
    fresh = [cache.batch([dataset[item] for item in batch]) for batch in items]
    loader = DataLoader(dataset, batch_sampler=items, num_workers=2, collate_fn=list)
    for samples, expected in zip(loader, fresh, strict=True):
        assert all(isinstance(sample.image, FrozenView) for sample in samples)
        check_equal(cache.batch(samples), expected)


# --- what is never used ---


def test_every_detector_and_pre_processing_has_its_own(small, squashing_folder, padding_folder, tiny_network, tmp_path):
    def folder(detector, network=tiny_network) -> str:
        return FrozenCache(tmp_path, MaskFrozenDetr.build(detector, network)).store.folder.name

    names = [folder(small.detector)]
    names.append(folder(load_detector(str(build_squashing_detector(tmp_path / "other", seed=1)))))
    resized = shutil.copytree(squashing_folder, tmp_path / "resized")
    settings = json.loads((resized / "preprocessor_config.json").read_text())
    settings["size"] = {"height": 64, "width": 64}
    (resized / "preprocessor_config.json").write_text(json.dumps(settings))
    names.append(folder(load_detector(str(resized))))
    names += [folder(load_detector(str(padding_folder), encoder_layer=layer)) for layer in (1, 2)]
    names.append(folder(small.detector, replace(tiny_network, stem=False, neck=False)))
    names.append(folder(small.detector, replace(tiny_network, stem_from="pixels")))
    assert len(set(names)) == len(names) == 7
    assert folder(load_detector(str(squashing_folder))) == names[0], "wherever it is loaded again"
    other_network = replace(tiny_network, box_layers=2, roi_size=16)
    assert folder(small.detector, other_network) == names[0], "the mask network may be another"


def test_names_follow_the_images_content(scenes, tmp_path):
    record, other = scenes[0].images[:2]
    store = ViewStore(tmp_path)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(record.path.read_bytes())
    assert store.name(record, False) == store.name(replace(record, path=copy, id=99), False)
    names = {store.name(record, flip) for flip in (False, True)}
    names |= {store.name(other, False), store.name(replace(record, width=record.width + 1), False)}
    copy.write_bytes(copy.read_bytes() + b"\0")
    names.add(ViewStore(tmp_path).name(replace(record, path=copy), False))
    assert len(names) == 5


@pytest.mark.parametrize(
    "damage", ["empty", "cut short", "noise", "a changed bit", "other names", "other keys", "no description"]
)
def test_damaged_files_are_made_anew(damage, small, scenes, tmp_path):
    cache, dataset = opened(tmp_path, small, scenes[0])
    first = cache.batch([dataset[0, 0]])
    ((name, whole),) = files_of(cache).items()
    path = cache.store.folder / name
    if damage == "a changed bit":
        path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "other names":
        path.write_bytes(whole.replace(b'"level0"', b'"lovel0"'))
    elif damage == "other keys":
        path.write_bytes(whole.replace(b"size", b"sine"))
    elif damage == "no description":
        path.write_bytes(whole.replace(b'"view"', b'"ciew"'))
    else:
        path.write_bytes({"empty": b"", "cut short": whole[: len(whole) // 2], "noise": b"x" * 500}[damage])
    assert path.read_bytes() != whole
    with pytest.warns(UserWarning, match=f"{name}: is damaged"):
        sample = dataset[0, 0]
    assert isinstance(sample.image, torch.Tensor)
    with pytest.warns(UserWarning, match=f"{name}: is damaged"):
        check_equal(cache.batch([sample]), first)
    assert files_of(cache) == {name: whole}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_equal(cache.batch([dataset[0, 0]]), first)


@pytest.mark.parametrize("fault", ["gone", "cut short", "of another size"])
def test_unusable_images_are_not_kept(fault, small, scenes, tmp_path):
    record, other = [r for r in scenes[0].images if any(a.category_id <= 3 for a in r.annotations)][:2]
    path = tmp_path / "bad.jpg"
    if fault == "cut short":
        path.write_bytes(record.path.read_bytes()[:-3000])
    elif fault == "of another size":
        path, record = record.path, replace(record, width=record.width + 3)
    data = replace(scenes[0], images=[replace(record, path=path), other])
    cache, dataset = opened(tmp_path / "cache", small, data)
    for _ in range(2):
        batch = cache.batch([dataset[0, 0], dataset[1, 1]])
        assert [str(path) in problem for problem in batch.problems] == [True]
        assert [len(target.labels) > 0 for target in batch.targets] == [False, True]
    assert len(files_of(cache)) == 1


# --- room ---


def test_the_estimate_is_what_it_takes(model, scenes, tmp_path):
    cache, dataset = FrozenCache(tmp_path, model), training_data(model, scenes[0], FLIPS)
    said = cache.open(dataset)
    assert f"{2 * len(dataset)} views of {len(dataset)} images" in said
    assert "(0 are there); random sizes and crops are off" in said
    each = cache.bytes_a_view(dataset)
    for index in range(len(dataset)):
        for number in (0, 1, 2, 3):  # both ways among them
            cache.batch([dataset[index, number]])
    stored = files_of(cache)
    assert len(stored) == 2 * len(dataset)
    assert sum(map(len, stored.values())) == pytest.approx(each * len(stored), rel=0.1)
    assert f"({len(stored)} are there)" in cache.open(dataset)


def test_more_than_the_limit_is_refused(small, scenes, tmp_path):
    dataset = training_data(small, scenes[0], FLIPS)
    total = FrozenCache(tmp_path, small).bytes_a_view(dataset) * 2 * len(dataset) / GB
    FrozenCache(tmp_path / "fits", small, 1.01 * total).open(dataset)
    views = f"{2 * len(dataset)} views of {len(dataset)} images"
    with pytest.raises(
        UserError, match=rf"cache: {views}, .* about {total:.2f} GB, more than the limit.*--cache-limit"
    ):
        FrozenCache(tmp_path / "more", small, 0.99 * total).open(dataset)
    assert not (tmp_path / "more").exists()
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"cache_limit: found .*, expected a positive number"):
            FrozenCache(tmp_path, small, limit)


def test_a_disk_without_room_is_named_before_the_start(small, scenes, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"has 0\.00 GB left; make room"):
        opened(tmp_path / "cache", small, scenes[0])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up(call, small, scenes, tmp_path, monkeypatch):
    """A clear error, and nothing that could be taken for a view."""
    cache, dataset = opened(tmp_path, small, scenes[0])
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


def test_sizes_that_no_memory_holds_are_estimated_all_the_same(small, scenes, tmp_path):
    """The file says 300,000 × 300,000 pixels (270 GB): the estimate takes none of them, the picture is one line."""
    record, other = [r for r in scenes[0].images if any(a.category_id <= 3 for a in r.annotations)][:2]
    hostile = replace(record, width=300_000, height=300_000)
    cache, dataset = opened(tmp_path, small, replace(scenes[0], images=[hostile, other]))
    batch = cache.batch([dataset[0, 0], dataset[1, 1]])
    assert [str(record.path) in problem for problem in batch.problems] == [True]


def test_links_in_its_place_are_replaced_not_followed(small, scenes, tmp_path):
    cache, dataset = opened(tmp_path / "cache", small, scenes[0])
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


def test_what_is_no_file_is_not_waited_for(small, scenes, tmp_path):
    cache, dataset = opened(tmp_path, small, scenes[0])
    sample = dataset[0, 0]
    assert sample.view is not None
    os.mkfifo(cache.store.path(sample.view))
    place = cache.store.path(sample.view)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(UserError, match="is a pipe or a device"):
        cache.batch([sample])
    assert place.is_fifo(), "it is the user's"


def test_two_runs_fill_one_cache(small, scenes, tmp_path):
    """Both made the view before either had written it: the same bytes, whoever was first."""
    (one, data), (other, other_data) = (opened(tmp_path, small, scenes[0]) for _ in range(2))
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


def test_a_folder_that_cannot_be_made(small, scenes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        opened(tmp_path / "file", small, scenes[0])


def test_what_killed_writes_left_is_swept_away(small, scenes, tmp_path):
    cache, dataset = opened(tmp_path, small, scenes[0])
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


def test_views_that_never_repeat_are_refused(small, scenes, tmp_path):
    with pytest.raises(ValueError, match=r"FrozenCache\.augment"):
        opened(tmp_path, small, scenes[0], AugmentConfig())


def test_a_detector_that_learns_is_refused(small, scenes, tmp_path):
    parameter = next(small.detector.parameters()).requires_grad_(True)
    try:
        with pytest.raises(UserError, match="cache: found a detector that is fine-tuned"):
            opened(tmp_path / "cache", small, scenes[0])
    finally:
        parameter.requires_grad_(False)
    assert not (tmp_path / "cache").exists()


def test_samples_without_a_cache_are_as_before(small, scenes):
    sample = training_data(small, scenes[0])[0, 0]
    assert isinstance(sample, Sample)
    assert sample.view is None
    assert isinstance(sample.image, torch.Tensor)
    assert torch.equal(pixels(collate([sample])), sample.image[None])


# --- training with it ---

NETWORK = "--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --no-report --log none"
TRAINING = "--iterations 8 --checkpoint-every 3 --log-every 1 --min-box-iou 0 --lr 1e-3 --workers 0 --precision fp32"


def command(detector: Path, data: Path, output: Path, *more: str) -> list[str]:
    annotations = data / "annotations" / "instances_train2017.json"  # that split alone: there is no evaluation
    start = ["train", str(detector), str(annotations), "--output", str(output)]
    return [*start, *f"{NETWORK} {TRAINING}".split(), *more]


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(output)]


def test_training_with_and_without(squashing_folder, scenes_folder, tmp_path, capsys):
    """The same curve up to bf16; the second run, which finds all there, ends with the first one's very weights."""
    options = (squashing_folder, scenes_folder)
    assert main(command(*options, tmp_path / "without", "--no-crop", "--no-multi-scale")) == 0
    assert main(command(*options, tmp_path / "first", "--cache", str(tmp_path / "cache"))) == 0
    shown = capsys.readouterr().err
    assert shown.count("cache: ") == 1
    assert "random sizes and crops are off" in shown
    assert main(command(*options, tmp_path / "second", "--cache", str(tmp_path / "cache"))) == 0
    assert (tmp_path / "first" / WEIGHTS_FILE).read_bytes() == (tmp_path / "second" / WEIGHTS_FILE).read_bytes()
    first, second = (json.loads((tmp_path / run / "training.json").read_text()) for run in ("first", "second"))
    for own in ("run", "files", "checksum"):  # each run has a name of its own
        assert first.pop(own) != second.pop(own)
    assert first == second
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "without"), rel=0.02)
    assert losses(tmp_path / "first") != losses(tmp_path / "without")


def be_killed(arguments: list[str], number: int) -> None:
    """A child that dies with its `number`-th view cut short, as after a loss of power."""
    seen, original = 0, frozen_views.write_bytes_atomic

    def torn(path: str | Path, data: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen < number:
            original(path, data)
            return
        Path(path).write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    frozen_views.write_bytes_atomic = torn
    run_main(arguments, {})


def test_a_killed_run_ends_as_the_one_that_was_not(squashing_folder, scenes_folder, tmp_path, capsys):
    options = (squashing_folder, scenes_folder)
    cached = ("--cache", str(tmp_path / "cache"))
    killed = command(*options, tmp_path / "killed", *cached)
    child = NURSERY.Process(target=be_killed, args=(killed, 11))
    child.start()
    child.join(timeout=120)
    assert child.exitcode == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(list(tmp_path.glob("cache/*/*.safetensors"))) == 11  # the last one cut short
    assert main(command(*options, tmp_path / "killed", "--resume", "--no-crop", "--no-multi-scale")) == 2
    assert "frozen outputs" in capsys.readouterr().err, "a run goes on as it was started"
    assert main([*killed, "--resume"]) == 0
    assert main(command(*options, tmp_path / "undisturbed", "--cache", str(tmp_path / "another"))) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    assert (tmp_path / "killed" / WEIGHTS_FILE).read_bytes() == (tmp_path / "undisturbed" / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--cache-limit", "0.00001"], ["limit", "GB", "--cache-limit"]),
        (["--cache-limit", "0"], ["cache_limit"]),
        (["--large-scale-jitter"], ["large_scale_jitter", "--cache"]),
        (["--colour-jitter", "0.3"], ["colour_jitter", "0.3", "--cache"]),
    ],
)
def test_what_the_command_line_refuses(more, words, squashing_folder, scenes_folder, tmp_path, capsys):
    arguments = command(squashing_folder, scenes_folder, tmp_path / "run", "--cache", str(tmp_path / "cache"), *more)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
