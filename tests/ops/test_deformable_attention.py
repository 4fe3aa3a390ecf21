"""Deformable attention against a literal loop, and its gradients."""

import math

import pytest
import torch

from mask_frozen_detr.ops.deformable_attention import (
    attention_choice,
    deformable_attention,
    deformable_attention_reference,
    implementation,
)
from mask_frozen_detr.ops.deformable_attention_bags import deformable_attention_bags
from mask_frozen_detr.ops.sampling import cell_centres, sampling_locations

SHAPES = [(5, 7), (3, 4), (2, 2)]
WAYS = pytest.mark.parametrize("attend", [deformable_attention_reference, deformable_attention_bags])


def read_bilinear(cells: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """(h, w, D) cells whose centres lie at (i + 0.5): the value at x, y in cells; zero outside."""
    h, w, _ = cells.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    value = torch.zeros_like(cells[0, 0])
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < h and 0 <= j < w:
                value += (1 - abs(y - 0.5 - i)) * (1 - abs(x - 0.5 - j)) * cells[i, j]
    return value


def literal(value, shapes, locations, weights):
    B, _, H, D = value.shape
    N, L, P = locations.shape[1], locations.shape[3], locations.shape[4]
    output = torch.zeros(B, N, H * D, dtype=value.dtype)
    starts = [0]
    for h, w in shapes:
        starts.append(starts[-1] + h * w)
    for b in range(B):
        for n in range(N):
            for head in range(H):
                for level in range(L):
                    h, w = shapes[level]
                    cells = value[b, starts[level] : starts[level + 1], head].view(h, w, D)
                    for p in range(P):
                        x, y = locations[b, n, head, level, p].tolist()
                        part = weights[b, n, head, level, p] * read_bilinear(cells, x * w, y * h)
                        output[b, n, head * D : (head + 1) * D] += part
    return output


def draw(shapes, B=2, N=3, H=2, D=3, P=4):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(B, tokens, H, D, generator=generator, dtype=torch.float64)
    # a good part of the points lies beyond the maps
    locations = 1.6 * torch.rand(B, N, H, len(shapes), P, 2, generator=generator, dtype=torch.float64) - 0.3
    weights = torch.randn(B, N, H, len(shapes), P, generator=generator, dtype=torch.float64)
    return value, locations, weights


@WAYS
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:1], [(1, 1)], [(1, 6), (4, 1)]])
def test_equals_the_literal_loop(shapes, attend):
    value, locations, weights = draw(shapes)
    expected = literal(value, shapes, locations, weights)
    assert torch.allclose(attend(value, shapes, locations, weights), expected, atol=1e-12)


@WAYS
def test_reads_a_cell_at_its_centre_and_zero_beyond_the_map(attend):
    value = torch.arange(6, dtype=torch.float64).add(1).view(1, 6, 1, 1)  # a 2 × 3 map
    places = cell_centres(2, 3).double() / torch.tensor([3.0, 2.0], dtype=torch.float64)
    outside = torch.tensor([[0.5, -0.25], [1 + 1 / 6, 0.25], [0, 0.25]], dtype=torch.float64)
    places = torch.cat([places, outside]).view(1, 9, 1, 1, 1, 2)
    read = attend(value, [(2, 3)], places, torch.ones(1, 9, 1, 1, 1, dtype=torch.float64))
    # half a cell beyond the border nothing is left; on the border, half of the first cell
    assert read.flatten().tolist() == pytest.approx([1, 2, 3, 4, 5, 6, 0, 0, 0.5], abs=1e-9)


@WAYS
def test_gradients(attend):
    value, locations, weights = draw([(3, 4), (2, 2)], B=1, N=2, H=2, D=2, P=2)
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda value, locations, weights: attend(value, [(3, 4), (2, 2)], locations, weights), inputs
    )


@WAYS
@pytest.mark.parametrize(("B", "N"), [(0, 3), (2, 0)])
def test_nothing_to_attend(B, N, attend):
    inputs = [tensor.requires_grad_() for tensor in draw(SHAPES, B=B, N=N)]
    attended = attend(inputs[0], SHAPES, *inputs[1:])
    assert attended.shape == (B, N, 6)
    for tensor, gradient in zip(inputs, torch.autograd.grad(attended.sum(), inputs), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


def test_bags_read_what_the_reference_reads_also_far_outside():
    value, locations, weights = draw(SHAPES, N=40)
    far = torch.tensor([-1e30, -7.0, 7.0, 1e30], dtype=locations.dtype).view(1, 1, 1, 1, 4, 1)
    locations = torch.where(torch.arange(40).view(1, 40, 1, 1, 1, 1) % 2 == 0, locations, far.expand_as(locations))
    inputs = [tensor.float().requires_grad_() for tensor in (value, locations, weights)]
    exact = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    found = deformable_attention_bags(inputs[0], SHAPES, inputs[1], inputs[2])
    expected = deformable_attention_reference(exact[0], SHAPES, exact[1], exact[2])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, upstream.float()),
        torch.autograd.grad(expected, exact, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


def test_bags_sum_half_precision_in_float32():
    value, locations, weights = (tensor.float() for tensor in draw([(40, 64)], N=50, D=8))
    found = deformable_attention_bags(value.bfloat16(), [(40, 64)], locations, weights)
    expected = deformable_attention_reference(value.bfloat16().float(), [(40, 64)], locations, weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_on_a_cpu_it_is_bags():
    value, locations, weights = draw(SHAPES)
    assert implementation(value, locations) is deformable_attention_bags
    with attention_choice("reference"):
        assert implementation(value, locations) is deformable_attention_reference
    traced = torch.compile(deformable_attention, backend="eager", fullgraph=True)  # bags would break the graph
    found = traced(value, SHAPES, locations, weights)
    assert torch.equal(found, deformable_attention_reference(value, SHAPES, locations, weights))


# Which output and gradients are no number: where grid_sample says so in float64.
LOST = {
    "x": (1, (0, 1, 0, 2, 3, 0)),
    "y": (1, (0, 1, 0, 2, 3, 1)),
    "weight": (2, (0, 1, 0, 2, 3)),
    "value": (0, (0, slice(35), 1, 2)),  # of a whole level
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("which", "index"), LOST.values(), ids=LOST)
def test_what_is_no_number_spreads_as_in_the_reference(which, index, bad):
    def outcome(attend):
        inputs = list(draw(SHAPES))
        inputs[which][index] = bad
        for tensor in inputs:
            tensor.requires_grad_()
        read = attend(inputs[0], SHAPES, *inputs[1:])
        upstream = torch.randn(read.shape, generator=torch.Generator().manual_seed(1), dtype=read.dtype)
        return [read.detach(), *torch.autograd.grad(read, inputs, upstream)]

    expected, found = outcome(deformable_attention_reference), outcome(deformable_attention_bags)
    assert not expected[0].isfinite().all()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        if math.isnan(bad):  # infinity less infinity is NaN: by another order of operations one stands for the other
            assert torch.equal(ours.isnan(), theirs.isnan())
        torch.testing.assert_close(ours[ours.isfinite()], theirs[theirs.isfinite()], atol=1e-9, rtol=1e-9)


@WAYS
def test_a_lost_location_is_seen_in_its_own_head_alone(attend):
    value, locations, weights = draw(SHAPES)
    locations[0, 1, 0, 2, 3, 0] = math.nan
    read = attend(value, SHAPES, locations.requires_grad_(), weights)
    read.sum().backward()
    assert read[0, 1, :3].isnan().all()
    assert read[0, 1, 3:].isfinite().all()
    assert read[1].isfinite().all()
    assert read[0, [0, 2]].isfinite().all()


def test_locations_are_offsets_in_cells_from_the_references():
    references = torch.tensor([[[[0.5, 0.25], [0.5, 0.5]]]])  # one query, two levels
    offsets = torch.zeros(1, 1, 2, 2, 3, 2)
    offsets[0, 0, 1, 0, 2] = torch.tensor([7.0, -1.0])
    found = sampling_locations(references, offsets, torch.tensor([[14.0, 4.0], [7.0, 2.0]]))
    expected = references[:, :, None, :, None].repeat(1, 1, 2, 1, 3, 1)
    expected[0, 0, 1, 0, 2] = torch.tensor([1.0, 0.0])
    assert torch.equal(found, expected)


def test_centres_run_row_by_row():
    assert cell_centres(2, 3).tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]
