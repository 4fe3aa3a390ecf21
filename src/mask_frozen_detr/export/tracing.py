"""What stands in the way of a trace, and out of it for as long as one is made."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_ABSENT = object()


def symbolic_length(value: Any) -> Any:
    """`len`, but of a tensor the symbol that stands for its length: `len` itself makes a number of it."""
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def no_check(*_arguments: Any, **_keywords: Any) -> None:
    """In the place of transformers' checks of values: they would be operators without a counterpart in ONNX."""


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Within it the model's modules of transformers can be traced with a batch of any length."""
    names = {type(module).__module__ for module in model.modules()}
    modules = [sys.modules[name] for name in names if name.startswith("transformers.models.")]
    substitutes = {"len": symbolic_length, "torch_compilable_check": no_check}
    before = [(module, name, vars(module).get(name, _ABSENT)) for module in modules for name in substitutes]
    try:
        for module, name, _ in before:
            setattr(module, name, substitutes[name])
        yield
    finally:
        for module, name, value in before:
            if value is _ABSENT:
                delattr(module, name)
            else:
                setattr(module, name, value)
