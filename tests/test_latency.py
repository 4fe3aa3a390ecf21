"""What `benchmark` measures and says."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mask_frozen_detr import MaskFrozenDetr, MaskNetworkConfig, UserError
from mask_frozen_detr.cli import main
from mask_frozen_detr.latency import Latency, advice, measure_latency

FAST = Latency(100.0, {10: 5.0, 20: 10.0}, 2.0, 1.0, 1.0, 500.0, "a processor", 4, 3)


def test_every_part_takes_its_time(squashing):
    model = MaskFrozenDetr.build(squashing, MaskNetworkConfig(roi_size=16))
    latency = measure_latency(model, [Image.new("RGB", (120, 90), "gray")], rounds=2)
    assert list(latency.masks) == [10, 20], "the detector has 20 queries: 50 and 100 boxes cannot be had"
    assert 0 < latency.masks[10] < latency.masks[20]
    spent = latency.as_json()["milliseconds"]
    assert min(spent["preprocessing"], spent["detector"], spent["pasting"], spent["encoding"]) > 0
    assert latency.memory > 50


def test_advice_names_what_costs_most_first(squashing):
    heavy = MaskFrozenDetr.build(squashing, MaskNetworkConfig(roi_size=16))
    assert [line for line in advice(FAST, heavy) if "threads" not in line] == [], "nothing but the detector counts"
    slow = replace(FAST, masks={10: 50.0, 100: 500.0}, preprocessing=40.0)
    said = [line.split(":")[0] for line in advice(slow, heavy) if "threads" not in line]
    assert said == ["train with --preset light", "a higher --score-threshold", "smaller pictures"]


@pytest.mark.parametrize(
    ("size", "upsample", "said"),
    [(32, 1, "train with --roi-size 16"), (16, 1, "train with --roi-size 8 --upsample 2"), (8, 2, "")],
)
def test_advice_on_cells_is_what_the_network_does_not_do_yet(size, upsample, said, squashing):
    config = MaskNetworkConfig(box_encoder="convnext", roi_size=size, upsample=upsample)
    slow = replace(FAST, masks={10: 500.0, 100: 500.0})
    lines = [line for line in advice(slow, MaskFrozenDetr.build(squashing, config)) if "--roi-size" in line]
    assert [line.split(":")[0] for line in lines] == ([said] if said else [])


def test_no_pictures_are_refused(squashing):
    with pytest.raises(UserError, match="no picture"):
        measure_latency(MaskFrozenDetr.build(squashing), [])


def test_the_command_prints_and_keeps_its_figures(squashing_folder, scenes_folder, tmp_path: Path, capfd):
    arguments = [
        "benchmark",
        squashing_folder,
        scenes_folder,
        "--pictures",
        2,
        "--rounds",
        1,
        "--json",
        tmp_path / "f.json",
    ]
    assert main([str(word) for word in arguments]) == 0
    assert "detector" in capfd.readouterr().out
    kept = (tmp_path / "f.json").read_text()
    assert main([str(word) for word in arguments]) == 2
    assert "is there already" in capfd.readouterr().err
    assert (tmp_path / "f.json").read_text() == kept


def test_one_bad_picture_is_one_line(squashing_folder, scenes_folder, tmp_path: Path, capfd):
    good = next((scenes_folder / "val2017").iterdir())
    (tmp_path / "good.jpg").write_bytes(good.read_bytes())
    (tmp_path / "bad.jpg").write_bytes(good.read_bytes()[:50])
    assert main(["benchmark", str(squashing_folder), str(tmp_path), "--rounds", "1"]) == 0
    shown = capfd.readouterr().out
    assert "; 1 pictures" in shown
    assert f"skipped: {tmp_path / 'bad.jpg'}: " in shown
    assert main(["benchmark", str(squashing_folder), str(tmp_path / "bad.jpg"), "--rounds", "1"]) == 2
    assert "benchmark: none of 1 pictures can be used" in capfd.readouterr().err
