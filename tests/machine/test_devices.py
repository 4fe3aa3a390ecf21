"""What the host asks a device for: one wait in a training step, for the matching, and none of it for the masks.

No GPU is needed to see it: `Far` tensors stand for those on a device, and note whatever would have to wait for them.
"""

from dataclasses import replace

import pytest
import torch
from narrow import pixels
from torch import Tensor

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.processes import check_enough_gpus
from mask_frozen_detr.ops.deformable_attention import attention_choice
from mask_frozen_detr.results.inference import segment
from mask_frozen_detr.training.config import LossConfig
from mask_frozen_detr.training.matching import Matcher, Targets
from mask_frozen_detr.training.samples import Sample, collate
from mask_frozen_detr.training.step import step_losses

WAITS = {"cpu", "numpy", "item", "tolist", "nonzero", "unique", "unique_consecutive", "bincount", "masked_select"}
WAITS |= {"__bool__", "__int__", "__float__", "__index__", "__contains__", "equal", "allclose", "argwhere"}


class Far(Tensor):
    """A tensor as if on a device: all that is computed from it is far as well, until it is copied to the host."""

    waits: list[str]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = func.__name__
        picks = name in ("__getitem__", "index") and any(
            isinstance(index, Far) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        if name in WAITS or picks:
            Far.waits.append(name)
        output = super().__torch_function__(func, types, args, kwargs or {})
        return output.as_subclass(Tensor) if name == "cpu" else output


@pytest.fixture
def far_detector(padding, monkeypatch):
    """A detector of padded batches, whose outputs lie on a device of their own."""
    Far.waits = []
    original = type(padding).forward

    def forward(self, *inputs):
        found = original(self, *inputs)
        Far.waits.clear()  # the detector's own affair
        far = {name: getattr(found, name).as_subclass(Far) for name in ("queries", "logits", "boxes", "stem", "pixels")}
        return replace(found, **far, features=[level.as_subclass(Far) for level in found.features])

    monkeypatch.setattr(type(padding), "forward", forward)
    with attention_choice("reference"):  # bags look at numbers, and run on CPUs alone
        yield padding


def sample(height: int, width: int) -> Sample:
    generator = torch.Generator().manual_seed(height)
    centres = torch.rand(3, 2, generator=generator) * 0.5 + 0.25
    boxes = torch.cat([centres, torch.full((3, 2), 0.3)], 1)
    crops = (torch.rand(3, 16, 16, generator=generator) > 0.5).to(torch.uint8)
    return Sample(
        torch.randn(3, height, width, generator=generator),
        Targets(boxes, torch.zeros(3).long(), crops, torch.ones(3).bool(), torch.ones(3)),
    )


@pytest.mark.parametrize("o2o", [False, True])
def test_a_training_step_waits_once_for_the_device(far_detector, tiny_network, o2o):
    model = MaskFrozenDetr.build(far_detector, replace(tiny_network, query_o2o=o2o))
    matcher = Matcher(far_detector.info.costs, far_detector.info.score_rule, 0.0)
    batch = collate([sample(64, 96), sample(96, 64)])  # padded
    losses = step_losses(model, matcher, batch, LossConfig(), 0)
    assert losses["matches"] == 6
    assert Far.waits == ["cpu"]
    torch.stack([losses[key] for key in ("bce", "dice", "iou")]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.network.box_encoder.parameters())


def test_inference_only_fetches_what_it_returns(far_detector, tiny_network):
    model = MaskFrozenDetr.build(far_detector, tiny_network).eval()
    batch = collate([sample(64, 96), sample(96, 64)])
    found = segment(far_detector, model.network, pixels(batch), batch.pixel_mask, [(64, 96), (96, 64)], 20)
    assert [len(instances) for instances in found] == [20, 20]
    # scores, queries, labels; masks, frames, IoU, boxes: the device's queue is empty from the first of each on
    assert Far.waits == ["cpu"] * 7


def test_waits_are_noticed(far_detector):
    values = torch.arange(4.0).as_subclass(Far)
    for wait in (
        lambda: bool((values > 2).any()),
        lambda: values[values > 2],
        lambda: values.long().bincount(),
        lambda: (values * 2).tolist(),
        lambda: (values + torch.ones(4)).max().item(),
    ):
        Far.waits.clear()
        wait()
        assert Far.waits
    Far.waits.clear()
    assert isinstance(values[torch.tensor([0, 2])].softmax(0), Far)
    assert not Far.waits


def test_what_is_sent_arrives():
    assert send(torch.arange(3), torch.device("cpu")).tolist() == [0, 1, 2]
    assert send(torch.arange(3), torch.device("meta")).shape == (3,)


def test_more_processes_than_gpus_are_refused():
    check_enough_gpus(2, 2)
    with pytest.raises(UserError, match="LOCAL_WORLD_SIZE: found 3 processes on a machine with 2 GPUs, expected at"):
        check_enough_gpus(3, 2)
