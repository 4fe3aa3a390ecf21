"""Hungarian matching against trying out every assignment, with the costs written out."""

from itertools import permutations

import pytest
import torch

from mask_frozen_detr.detectors.base import Detections, MatchingCosts, ScoreRule
from mask_frozen_detr.results.given_boxes import CLASS_WEIGHT
from mask_frozen_detr.training.matching import Matcher, Matches, Targets

CLASSES = 3


def draw(queries: int, objects: list[int], kind: str, seed: int = 0) -> tuple[Detections, list[Targets]]:
    generator = torch.Generator().manual_seed(seed)

    def boxes(*shape: int) -> torch.Tensor:
        centres = 0.2 + 0.6 * torch.rand(*shape, 2, generator=generator)
        return torch.cat([centres, 0.05 + 0.3 * torch.rand(*shape, 2, generator=generator)], -1)

    B = len(objects)
    logits = 2 * torch.randn(B, queries, CLASSES + (kind == "softmax"), generator=generator)
    detections = Detections(torch.zeros(B, queries, 4), logits, boxes(B, queries), [], None)
    targets = [
        Targets(
            boxes(T),
            torch.randint(CLASSES, (T,), generator=generator),
            torch.zeros(T, 4, 4, dtype=torch.uint8),
            torch.ones(T, dtype=torch.bool),
            torch.ones(T),
        )
        for T in objects
    ]
    return detections, targets


def corners(box: list[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = box
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def giou(first: list[float], second: list[float]) -> tuple[float, float]:
    """Generalised IoU and IoU."""
    a, b = corners(first), corners(second)
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = first[2] * first[3] + second[2] * second[3] - intersection
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return intersection / union - (hull - union) / hull, intersection / union


def class_cost(logits: torch.Tensor, label: int, kind: str) -> float:
    if kind == "softmax":
        return -logits.softmax(-1)[label].item()
    p = logits[label].sigmoid().double()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    return (positive - negative).item()


def cost_table(detections: Detections, targets: Targets, b: int, costs: MatchingCosts, kind: str) -> list[list[float]]:
    """A row a query, a column an object."""
    return [
        [
            costs.class_cost * class_cost(detections.logits[b, q], int(targets.labels[t]), kind)
            + costs.bbox_cost * (detections.boxes[b, q] - targets.boxes[t]).abs().sum().item()
            - costs.giou_cost * giou(detections.boxes[b, q].tolist(), targets.boxes[t].tolist())[0]
            for t in range(len(targets.labels))
        ]
        for q in range(detections.boxes.shape[1])
    ]


def lowest_cost(table: list[list[float]], objects: int) -> float:
    """Of all assignments of as many pairs as there can be."""
    queries = len(table)
    if objects <= queries:
        chosen = permutations(range(queries), objects)
        return min(sum(table[q][t] for t, q in enumerate(picked)) for picked in chosen)
    return min(sum(table[q][t] for q, t in enumerate(picked)) for picked in permutations(range(objects), queries))


COSTS = {
    "Deformable DETR's": MatchingCosts(),
    "class alone": MatchingCosts(1.0, 0.0, 0.0),
    "boxes alone": MatchingCosts(0.0, 1.0, 0.0),
    "overlap alone": MatchingCosts(0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("costs", COSTS.values(), ids=COSTS.keys())
def test_the_best_of_all_assignments(kind, costs):
    for seed in range(5):
        detections, targets = draw(5, [3, 0, 4, 1], kind, seed)
        matches = Matcher(costs, ScoreRule(kind))(detections, targets)
        for b, target in enumerate(targets):
            of_image = matches.image_index == b
            queries, objects = matches.query_index[of_image].tolist(), matches.target_index[of_image].tolist()
            assert len(set(queries)) == len(queries)
            assert sorted(objects) == list(range(len(target.labels)))
            table = cost_table(detections, target, b, costs, kind)
            cost = sum(table[q][t] for q, t in zip(queries, objects, strict=True))
            assert cost == pytest.approx(lowest_cost(table, len(objects)), abs=1e-4)
        assert matches.image_index.tolist() == sorted(matches.image_index.tolist())
        assert len(matches) == 8


def test_more_objects_than_queries():
    detections, targets = draw(3, [5], "sigmoid")
    matches = Matcher(MatchingCosts(), ScoreRule())(detections, targets)
    table = cost_table(detections, targets[0], 0, MatchingCosts(), "sigmoid")
    pairs = zip(matches.query_index.tolist(), matches.target_index.tolist(), strict=True)
    assert sum(table[q][t] for q, t in pairs) == pytest.approx(lowest_cost(table, 5), abs=1e-4)
    assert sorted(matches.query_index.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_no_objects_at_all(kind):
    detections, targets = draw(4, [0, 0], kind)
    matches = Matcher(MatchingCosts(), ScoreRule(kind), min_iou=0.5)(detections, targets)
    assert len(matches) == 0
    for index in (matches.image_index, matches.query_index, matches.target_index):
        assert index.dtype == torch.int64  # they index tensors


def test_boxes_beside_the_object_are_left_out():
    detections, targets = draw(6, [4, 3], "sigmoid", seed=2)
    detections.boxes[0, 2] = targets[0].boxes[1]
    every = Matcher(MatchingCosts(), ScoreRule())(detections, targets)
    overlaps = [
        giou(detections.boxes[b, q].tolist(), targets[b].boxes[t].tolist())[1]
        for b, q, t in zip(
            *(index.tolist() for index in (every.image_index, every.query_index, every.target_index)), strict=True
        )
    ]
    threshold = sorted(overlaps)[3] + 1e-4
    kept = Matcher(MatchingCosts(), ScoreRule(), min_iou=threshold)(detections, targets)
    expected = torch.tensor(overlaps) >= threshold
    assert len(kept) == 3
    for name in ("image_index", "query_index", "target_index"):
        assert torch.equal(getattr(kept, name), getattr(every, name)[expected])


def test_half_precision_detections():
    detections, targets = draw(5, [3], "sigmoid")
    full = Matcher(MatchingCosts(), ScoreRule())(detections, targets)
    detections.logits, detections.boxes = detections.logits.bfloat16(), detections.boxes.bfloat16()
    half = Matcher(MatchingCosts(), ScoreRule())(detections, targets)
    assert torch.equal(half.query_index, full.query_index)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("least", [0.0, 0.5])
def test_a_box_inside_out_ends_no_run(kind, least):
    """Heads that predict distances to the four sides give a negative width now and then."""
    detections, targets = draw(6, [3], kind)
    detections.boxes[0, 4, 2] = -0.02
    kept = [0, 1, 2, 3, 5]
    expected = Matcher(MatchingCosts(), ScoreRule(kind), least)(
        Detections(
            detections.queries[:, kept],
            detections.logits[:, kept],
            detections.boxes[:, kept],
            [],
            None,
        ),
        targets,
    )
    found = Matcher(MatchingCosts(), ScoreRule(kind), least)(detections, targets)
    if 4 not in found.query_index:
        assert found.query_index.tolist() == [5 if q == 4 else q for q in expected.query_index.tolist()]
    assert len(found) <= 3
    assert detections.boxes[0, 4, 2] == pytest.approx(-0.02), "the detector's boxes stay as they are"


def test_truth_of_the_pairs():
    """Row by row what the pair's object has, images without objects among them."""
    _, targets = draw(2, [2, 0, 3], "sigmoid")
    pairs = [(0, 1), (2, 2), (2, 0)]  # image, object
    matches = Matches(torch.tensor([0, 2, 2]), torch.tensor([1, 0, 1]), torch.tensor([1, 2, 0]), torch.zeros(3, 4))
    truth = matches.truth(targets)
    for row, (image, number) in enumerate(pairs):
        assert torch.equal(truth.boxes[row], targets[image].boxes[number])
        assert truth.labels[row] == targets[image].labels[number]
        assert torch.equal(truth.masks[row], targets[image].masks[number])
    nothing = torch.zeros(0, dtype=torch.int64)
    assert Matches(nothing, nothing, nothing, torch.zeros(0, 4)).truth(targets).masks.shape == (0, 4, 4)


@pytest.mark.parametrize("least", [0.0, 0.01])
def test_objects_without_a_mask_are_matched_and_left_out(least):
    """Their query is theirs: no other object gets it, and nothing is learned from it."""
    detections, targets = draw(6, [4, 3], "sigmoid")
    every = Matcher(MatchingCosts(), ScoreRule(), least)(detections, targets)
    targets[0].has_mask[1] = False
    targets[1].has_mask[:] = False
    kept = Matcher(MatchingCosts(), ScoreRule(), least)(detections, targets)
    expected = (every.image_index == 0) & (every.target_index != 1)
    assert 0 < expected.sum() < 4
    for name in ("image_index", "query_index", "target_index"):
        assert torch.equal(getattr(kept, name), getattr(every, name)[expected])


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_objects_that_were_missed_teach_over_their_true_boxes(kind):
    """Each with the query of the highest sum of overlap and weighted class probability, whoever else has that query."""
    detections, targets = draw(6, [4, 3], kind)
    targets[1].has_mask[2] = False
    least = 0.2
    found = Matcher(MatchingCosts(), ScoreRule(kind), least)(detections, targets)
    every = Matcher(MatchingCosts(), ScoreRule(kind), least, missed=True)(detections, targets)
    assert 0 < len(found) < len(every) == 6, "all but the one without a mask"
    pairs = list(zip(every.image_index.tolist(), every.target_index.tolist(), strict=True))
    assert sorted(pairs) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    known = {
        (b, t): q
        for b, q, t in zip(
            found.image_index.tolist(), found.query_index.tolist(), found.target_index.tolist(), strict=True
        )
    }
    for (b, t), q, frame in zip(pairs, every.query_index.tolist(), every.boxes, strict=True):
        if (b, t) in known:
            assert q == known[b, t]
            assert torch.equal(frame, detections.boxes[b, q])
            continue
        logits = detections.logits[b]
        scores = logits.sigmoid() if kind == "sigmoid" else logits.softmax(-1)
        truth, label = targets[b].boxes[t].tolist(), int(targets[b].labels[t])
        fits = [
            giou(truth, box)[1] + CLASS_WEIGHT * float(score)
            for box, score in zip(detections.boxes[b].tolist(), scores[:, label], strict=True)
        ]
        assert q == fits.index(max(fits))
        assert torch.equal(frame, targets[b].boxes[t])
