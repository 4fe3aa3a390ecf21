"""Recipes: every trainable row by name, its differences from the default, what is asked for when something lacks."""

import pytest

from mask_frozen_detr.cli import main
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.paper.recipes import find_recipe, format_recipes, recipes


def test_names_are_unlike_and_every_network_is_one_that_can_be_built():
    found = recipes()
    assert len({recipe.name for recipe in found}) == len(found) > 50
    assert {recipe.row.table for recipe in found} >= {2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 16}


@pytest.mark.parametrize(
    ("name", "network", "training"),
    [
        ("table6-h-detr-resnet50", {}, {"iterations": 88_500, "batch": 8, "max_detections": 100}),
        ("table6-h-detr-swin-large", {}, {"iterations": 88_500, "batch": 8, "max_detections": 100}),
        ("table6-dino-focalnet-large", {}, {"iterations": 88_500, "batch": 8, "max_detections": 300}),
        ("table8-batch-2", {}, {"batch": 2, "epochs": 6.0, "iterations": None}),
        ("table9-epochs-12", {}, {"epochs": 12.0}),
        ("table16-image-3-box-2", {"image_layers": 3, "box_layers": 2}, {"max_detections": 300}),
    ],
)
def test_a_recipe_is_the_papers_row(name, network, training):
    recipe = find_recipe(name)
    assert recipe.network == MaskNetworkConfig(**network)
    for key, value in training.items():
        assert getattr(recipe.training, key) == value, key


def test_what_a_table_varies_is_varied():
    assert not find_recipe("table5-ffn").network.query_b2o
    assert not find_recipe("table5-ffn-b2o").training.loss.sampled_points  # points come with Table 12
    assert find_recipe("table15-layer-2").encoder_layer == 2
    assert [r.training.augment.large_scale_jitter for r in recipes(13)] == [False, True]


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="table5-ffn-b2o"):
        find_recipe("table5-ffnb2o")
    with pytest.raises(UserError, match="expected one of"):
        recipes(99)


def test_the_list_shows_the_papers_figures():
    line = next(x for x in format_recipes(recipes(6)).splitlines() if x.startswith("table6-h-detr-resnet50 "))
    assert "44.1" in line
    assert "49.9" in line


def test_what_a_recipe_lacks_is_asked_for_by_name(tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", "--recipe", "table6-h-detr-resnet50", "--output", str(output)]) == 2
    message = capsys.readouterr().err
    assert "github.com/HDETR" in message
    assert "cocodataset.org" in message
    assert not output.exists()
