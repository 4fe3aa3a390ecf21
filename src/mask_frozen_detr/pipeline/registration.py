"""`pipeline("image-segmentation", model=RUN)` of transformers, after no more than `import mask_frozen_detr`.

transformers must be told of the classes, and its auto classes load torch: so they are told when
`transformers.pipelines` is imported, by a finder of modules that waits for that one name, and at once where it has
been imported already. Until then this costs nothing.
"""

import sys
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importlib.abc takes half of what else importing this package takes
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import ModuleType

AWAITED = "transformers.pipelines"


class PipelinesFinder:
    """Finds `transformers.pipelines` where Python would, and has its import followed by the registration."""

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None", target: "ModuleType | None" = None
    ) -> ModuleSpec | None:
        if fullname != AWAITED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _follow(spec.loader)
        return spec


def await_transformers() -> None:
    """Register now where the pipelines are there already, else as soon as they are imported. Twice is as once."""
    if AWAITED in sys.modules:
        _register()
    elif not any(isinstance(finder, PipelinesFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PipelinesFinder())


def _follow(loader: "Loader") -> None:
    execute = loader.exec_module

    def execute_and_register(module: "ModuleType") -> None:
        execute(module)
        _register()

    loader.exec_module = execute_and_register  # type: ignore[method-assign]


def _register() -> None:
    """A version of transformers in which this fails still has all its own pipelines: it is warned of."""
    try:
        from mask_frozen_detr.pipeline import register

        register()
    except Exception as error:
        warnings.warn(f'mask_frozen_detr: pipeline("image-segmentation") cannot load runs: {error}', stacklevel=2)
