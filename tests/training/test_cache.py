"""Frozen outputs on disk: the detector's own up to bf16, the same numbers at every use, and never another's."""

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from cached_views import FLIPS, check_equal, files_of, opened, training_data
from narrow import detections
from tiny_detectors import build_squashing_detector
from tiny_training import spoiled
from torch.utils.data import DataLoader

from mask_frozen_detr import MaskFrozenDetr, load_detector
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.training import samples as dataset_module
from mask_frozen_detr.training.cache import FrozenCache
from mask_frozen_detr.training.frozen_views import FrozenView, ViewStore
from mask_frozen_detr.training.samples import collate


@pytest.fixture(scope="module", params=["squashing", "padding"])
def model(request, tiny_network) -> MaskFrozenDetr:
    torch.manual_seed(0)
    return MaskFrozenDetr.build(request.getfixturevalue(request.param), tiny_network)


@pytest.fixture(scope="module")
def small(squashing, tiny_network) -> MaskFrozenDetr:
    return MaskFrozenDetr.build(squashing, tiny_network)


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
    bad = spoiled(record, fault, tmp_path / "bad.jpg")
    data = replace(scenes[0], images=[bad, other])
    cache, dataset = opened(tmp_path / "cache", small, data)
    for _ in range(2):
        batch = cache.batch([dataset[0, 0], dataset[1, 1]])
        assert [str(bad.path) in problem for problem in batch.problems] == [True]
        assert [len(target.labels) > 0 for target in batch.targets] == [False, True]
    assert len(files_of(cache)) == 1


def test_the_estimate_is_what_it_takes(model, scenes, tmp_path):
    cache, dataset = FrozenCache(tmp_path, model), training_data(model, scenes[0], FLIPS)
    said = cache.open(dataset)
    assert f"{2 * len(dataset)} views of {len(dataset)} images" in said
    assert "(0 are there); random sizes, crops and pasted objects are off" in said
    each = cache.bytes_a_view(dataset)
    for index in range(len(dataset)):
        for number in (0, 1, 2, 3):  # both ways among them
            cache.batch([dataset[index, number]])
    stored = files_of(cache)
    assert len(stored) == 2 * len(dataset)
    assert sum(map(len, stored.values())) == pytest.approx(each * len(stored), rel=0.1)
    assert f"({len(stored)} are there)" in cache.open(dataset)
