"""`recipes`: the rows of the paper's tables."""

from dataclasses import dataclass


@dataclass
class Recipes:
    """The rows of the paper's tables that can be trained by name, with the paper's figures."""

    # One table of the paper; by default all of them.
    table: int | None = None

    def run(self) -> None:
        from mask_frozen_detr.paper.recipes import format_recipes, recipes

        print(format_recipes(recipes(self.table)))
