"""The best weights beside the last, early stopping, val pictures: what a run keeps while it lasts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import read_metrics
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.training import records, run_folder
from mask_frozen_detr.training.config import AugmentConfig, TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.run_folder import TRAINING_FILE

CONFIG = TrainConfig(
    iterations=4,
    workers=0,
    log_every=1,
    min_box_iou=0.0,
    lr=1e-3,
    precision="fp32",
    evaluate_every=1,
    log="none",
    report=False,
    augment=AugmentConfig(multi_scale=False),
)
Weights = dict[str, torch.Tensor]


@pytest.fixture
def go(squashing, scenes, tiny_network, tmp_path, monkeypatch) -> Callable[..., list[Weights]]:
    """Train into tmp_path/run with mask APs that are given, a step each; returns the weights at each evaluation."""

    def run(aps: list[float], config: TrainConfig = CONFIG, detector: FrozenDetector = squashing, **options):
        torch.manual_seed(0)
        model = MaskFrozenDetr.build(detector, tiny_network)
        seen: list[Weights] = []
        original = records.measure

        def measure(evaluated: MaskFrozenDetr, *parts, **more):
            found = original(evaluated, *parts, **more)
            seen.append({name: value.clone() for name, value in evaluated.network.state_dict().items()})
            mask = {**found.evaluation.mask, "AP": aps[min(len(seen), len(aps)) - 1]}
            return replace(found, evaluation=replace(found.evaluation, mask=mask))

        with monkeypatch.context() as patch:
            patch.setattr(records, "measure", measure)
            train(model, scenes[0], scenes[1], tmp_path / "run", config, **{"quiet": True, **options})
        return seen

    return run


def same(a: Weights, b: Weights) -> bool:
    return all(torch.equal(a[name], b[name]) for name in b)


def saved(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_best_weights_lie_beside_the_last(go, squashing, tmp_path):
    weights = go([10.0, 30.0, 30.0, 20.0], replace(CONFIG, ema=0.5))
    run = tmp_path / "run"
    best, last = (MaskFrozenDetr.from_pretrained(path, squashing) for path in (run / "best", run))
    assert same(best.network.state_dict(), weights[1]), "the first of equals"
    assert same(last.network.state_dict(), weights[3])
    assert not same(weights[1], weights[3])
    assert saved(run / "best" / "evaluation.json") | {"seconds": 0} == saved(run / "evaluation-2.json") | {
        "seconds": 0,
        "whole": True,
    }
    with Image.open(run / "evaluation-2.jpg") as picture:
        assert picture.width > 400, "truth beside masks"


def test_a_run_stops_where_nothing_gets_better(go, squashing, scenes, tiny_network, tmp_path, capsys):
    weights = go([10.0, 30.0, 20.0, 25.0, 99.0], replace(CONFIG, iterations=9, patience=2))
    run = tmp_path / "run"
    assert len(weights) == 4, "what was measured last is not measured again"
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4]
    assert not (run / "checkpoint.pt").exists()
    assert saved(run / "best" / "evaluation.json")["step"] == 2
    model = MaskFrozenDetr.build(squashing, tiny_network)
    found = train(model, scenes[0], scenes[1], run, replace(CONFIG, iterations=9, patience=2), resume=True)
    assert "stopped early, after 4 iterations" in capsys.readouterr().err
    assert found is not None
    assert found.mask["AP"] == 25.0
    assert same(model.network.state_dict(), weights[3])


def test_on_the_way_a_part_of_val_at_the_end_all_of_it(go, scenes, tmp_path, capsys):
    go([10.0, 30.0, 20.0, 20.0, 40.0, 50.0], replace(CONFIG, evaluate_images=2))
    run, val = tmp_path / "run", len(scenes[1].images)
    counts = {step: saved(run / f"evaluation-{step}.json") for step in (1, 2, 3, 4)}
    assert [one["images"] for one in counts.values()] == [2, 2, 2, val]
    assert {one["images_in_all"] for one in counts.values()} == {val}
    best = saved(run / "best" / "evaluation.json")
    assert (best["step"], best["images"], best["whole"], best["mask"]["AP"]) == (2, val, True, 50.0)
    assert counts[4]["mask"]["AP"] == 40.0


@pytest.mark.parametrize(
    "ending", ["the weights are written", pytest.param("their record is written", marks=pytest.mark.slow)]
)
def test_a_run_that_ends_between_best_and_evaluation_goes_on(ending, go, tmp_path, monkeypatch, capsys):
    """The best weights are on the disk, the evaluation is not: it is made again, and decides the same."""

    def stop(*_parts, **_options):
        raise KeyboardInterrupt

    name = "write_best" if ending == "the weights are written" else "write_evaluation"
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, name, stop)
        with pytest.raises(KeyboardInterrupt):
            go([30.0], quiet=False)
    assert "stopped after iteration 1; --resume goes on from there" in capsys.readouterr().err
    weights = go([30.0, 10.0, 20.0, 20.0], resume=True)
    run = tmp_path / "run"
    assert len(weights) == 4
    assert saved(run / "best" / "evaluation.json")["step"] == 1
    assert same(MaskFrozenDetr.from_pretrained(run / "best").network.state_dict(), weights[0])


def test_a_detector_that_learns_is_kept_with_its_best_masks(go, squashing_folder, tmp_path):
    detector = load_detector(squashing_folder)
    go([30.0, 10.0], replace(CONFIG, iterations=2, finetune="full"), detector)
    run = tmp_path / "run"
    best, last = (MaskFrozenDetr.from_pretrained(path).detector.model.state_dict() for path in (run / "best", run))
    untouched = load_detector(squashing_folder).model.state_dict()
    assert not same(best, last)
    assert not same(best, untouched)


def test_best_of_others_is_not_replaced(go, tmp_path):
    mine = tmp_path / "run" / "best" / "evaluation.json"
    go([30.0, 10.0], replace(CONFIG, iterations=2))
    mine.write_text("of the user")
    listed = saved(tmp_path / "run" / TRAINING_FILE)["files"]
    assert "best/evaluation.json" in listed
    go([10.0, 30.0], replace(CONFIG, iterations=2), overwrite=True)
    assert saved(mine)["step"] == 2, "the run's own goes"
    (tmp_path / "run" / "best" / "notes.txt").write_text("of the user")
    go([30.0, 10.0], replace(CONFIG, iterations=2), overwrite=True)
    assert (tmp_path / "run" / "best" / "notes.txt").read_text() == "of the user"


@pytest.mark.parametrize(
    ("images", "val", "options", "every"),
    [
        (118_000, 5_000, {}, 35_400),  # the paper's run: ten evaluations of 500 images
        (343, 206, {"iterations": 3200}, 800),  # 3 × 206 of 6,400 images, and the end
        (343, 206, {"iterations": 1200}, 600),
        (343, 206, {"iterations": 400}, 0),  # one would look at more than a tenth of what is learned from
        (343, 206, {"iterations": 400, "evaluate_images": 50}, 200),
        (343, 206, {"evaluate_every": 7}, 7),
        (343, 206, {"evaluate_every": 0}, 0),
    ],
)
def test_how_often_a_run_is_evaluated(images, val, options, every):
    assert TrainConfig(**options).evaluation_interval(images, val) == every


@pytest.mark.parametrize(
    ("options", "val", "words"),
    [
        ({}, False, "there is no val split"),
        (
            {"evaluate_every": None},
            True,
            "of the 9 iterations before the end 0 have .*expected 3 or more; give --evaluate-every 2,",
        ),
        (
            {"evaluate_every": 3},
            True,
            "of the 9 iterations before the end 2 have .*expected 3 or more; give --evaluate-every 2,",
        ),
        ({"iterations": 3}, True, "of the 3 iterations before the end 2 have .*expected 3 or more; leave it out"),
    ],
)
def test_patience_that_can_never_end_a_run_is_refused(options, val, words, squashing, scenes, tiny_network, tmp_path):
    model = MaskFrozenDetr.build(squashing, tiny_network)
    config = replace(CONFIG, **{"iterations": 9, "patience": 2} | options)
    with pytest.raises(UserError, match=f"patience: found 2, but {words}"):
        train(model, scenes[0], scenes[1] if val else None, tmp_path / "run", config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_least_often_that_patience_can_end_a_run(go, tmp_path):
    """As often as the refusal says."""
    go([30.0, 20.0, 10.0], replace(CONFIG, iterations=9, patience=2, evaluate_every=2))
    assert read_metrics(tmp_path / "run")[-1]["step"] == 6
