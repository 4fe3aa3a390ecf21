"""report.html: what came of a run or an evaluation, on one page."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mask_frozen_detr.evaluation import Evaluation, Measured
from mask_frozen_detr.report import figures
from mask_frozen_detr.report.gallery import FIRST, FOUND, TRUTH, Example, make_examples
from mask_frozen_detr.report.history import History
from mask_frozen_detr.report.html_page import card, chart, charts, check_page, embedded, html_page, table, write_page
from mask_frozen_detr.report.matches import KINDS, Findings, find_errors
from mask_frozen_detr.report.words import figure_text, page_text, ratio_text

REPORT_FILE = "report.html"
MOST_LINES = 50  # of what was skipped


def report_path(place: Path) -> Path:
    """Where the page for `place` goes: a file of that name where it ends in .html, else report.html in that folder."""
    return place if place.suffix.lower() in (".html", ".htm") else place / REPORT_FILE


def check_report(place: Path) -> None:
    """Raises UserError where no page can be made for `place`: before the work, not after it."""
    check_page(report_path(place))


def write_report(
    place: Path, name: str, measured: Measured | None, history: History, skipped: Iterable[str] = ()
) -> Path:
    """Write the page; returns its path.

    measured: what to show of val; None of a run without. history: of the run, as far as there is one. skipped: lines on
    what training had to do without. Raises UserError as `check_report` does, or where it cannot be written.
    """
    path = report_path(place)
    check_page(path)
    findings = None if measured is None else find_errors(measured)
    sections = [_summary(measured, history), _training(history)]
    if measured is not None and findings is not None:
        sections += [_quality(measured, findings), _gallery(make_examples(findings), findings, measured.categories)]
    sections += [_skipped(None if measured is None else measured.evaluation, skipped), _options(history.options)]
    if measured is not None:
        sections.append(embedded("evaluation", measured.evaluation.as_dict()))
    write_page(path, html_page(name, sections))
    return path


def _summary(measured: Measured | None, history: History) -> str:
    cards = []
    if measured is not None:
        box, mask = measured.evaluation.box["AP"], measured.evaluation.mask["AP"]
        cards += [card("mask AP", figure_text(mask)), card("box AP", figure_text(box))]
        cards += [card("mask / box", ratio_text(mask, box)), card("images", f"{measured.evaluation.images:,}")]
    if history.metrics:
        last = history.metrics[-1]
        cards.append(card("iterations", f"{history.last_step:,}"))
        for key, named, places in (
            ("device_hours", "hours of training", 2),
            ("images_per_second", "images a second", 1),
            ("peak_memory_gb", "GB of memory", 1),
        ):
            if isinstance(last.get(key), int | float):
                cards.append(card(named, f"{last[key]:.{places}f}"))
    said = "" if measured is not None else "<p>Nothing was measured: this run has no val split.</p>"
    if measured is not None:
        lines = [measured.evaluation.coverage(), *measured.evaluation.manner()]
        said += "".join(f'<p class="quiet">{page_text(line)}</p>' for line in lines)
    if history.best_step is not None and history.metrics and history.best_step != history.last_step:
        best = history.best
        value = "" if best is None else f": mask AP {figure_text(best.mask['AP'])} of {best.images:,} images"
        said += f"<p>The best weights are those of iteration {history.best_step:,}, in best/{value}.</p>"
    return f'<div class="cards">{"".join(cards)}</div>{said}'


def _training(history: History) -> str:
    shown = [
        ("Losses", "losses", figures.loss_curves(history), ""),
        ("IoU in training", "iou", figures.iou_curve(history), "Masks of matched queries beside the truth."),
        ("AP on val", "ap", figures.ap_curves(history), _basis(history)),
    ]
    parts = [chart(title, figures.as_html(one, name), said) for title, name, one, said in shown if one is not None]
    if not parts:
        return ""
    return f"<h2>Training</h2>{charts(parts)}"


def _basis(history: History) -> str:
    """Says of how many images the points of the AP curve are, where not all are of the same."""
    counts = [one.images for one in history.evaluations.values()]
    if len(set(counts)) < 2:
        return ""
    return f"On the way of {counts[0]:,} images, at the end of {counts[-1]:,}."


def _quality(measured: Measured, findings: Findings) -> str:
    evaluation = measured.evaluation
    rows = [
        [name, figure_text(box), figure_text(mask), ratio_text(mask, box)]
        for (name, box), mask in zip(evaluation.box.items(), evaluation.mask.values(), strict=True)
    ]
    ious = findings.mask_ious()
    mean = f"{sum(ious) / len(ious):.2f} in the mean, " if ious else ""
    parts = [
        chart("COCO's figures", table(["", "box", "mask", "mask / box"], rows, "figures")),
        chart("AP by size", figures.as_html(figures.size_bars(evaluation), "sizes"), "By the area of true masks."),
        chart(
            "Precision and recall",
            figures.as_html(figures.precision_recall(measured), "precision"),
            "The mean over classes; AP is the mean of a curve.",
        ),
        chart(
            "Mask IoU of objects that are found",
            figures.as_html(figures.iou_histogram(ious), "ious"),
            f"{mean}{len(ious):,} objects whose class and box are right, at scores from {findings.threshold:.2f}.",
        ),
    ]
    by_class = [
        [page_text(name), figure_text(box), figure_text(mask), ratio_text(mask, box)]
        for (name, box), mask in zip(evaluation.box_by_class.items(), evaluation.mask_by_class.values(), strict=True)
    ]
    classes = table(["class", "box AP", "mask AP", "mask / box"], by_class, "classes")
    shown = sum(not math.isnan(mask) for mask in evaluation.mask_by_class.values())
    most = figures.MOST_CLASSES
    said = f"The {most // 2} best and the {most // 2} worst of {shown}." if shown > most else ""
    return (
        f"<h2>Quality</h2>{charts(parts)}"
        + chart("AP by class", figures.as_html(figures.class_bars(evaluation), "classes-chart"), said)
        + f"<details><summary>All {len(by_class)} classes as a table</summary>{classes}</details>"
    )


def _gallery(examples: list[Example], findings: Findings, categories: Mapping[int, str]) -> str:
    counts = {kind: findings.count(kind) for kind in KINDS}
    kinds = "".join(f'<option value="{kind}">{kind} ({counts[kind]:,})</option>' for kind in KINDS)
    present = sorted({one.finding.category_id for one in examples}, key=lambda key: categories[key].lower())
    classes = "".join(f'<option value="{key}">{page_text(categories[key], 40)}</option>' for key in present)
    sizes = "".join(f'<option value="{size}">{size}</option>' for size in ("small", "medium", "large"))
    everything = '<option value="">all</option>'
    legend = " ".join(
        f'<span class="swatch" style="background: rgb{colour}"></span>{word}'
        for colour, word in ((TRUTH, "truth"), (FOUND, "found"), (FIRST, "found before, where it is twice"))
    )
    explained = table(["", "", ""], ([kind, f"{counts[kind]:,}", said] for kind, said in KINDS.items()), "kinds")
    return f"""<h2>Masks, and what went wrong</h2>
<p>Detections that score at least {findings.threshold:.2f}, where F1 is highest, beside the objects that are there.
{len(examples)} of {len(findings.all):,} are shown, the worst of each kind and the best of the good masks, all classes
in turn. Image, truth and result: {legend}.</p>
<details><summary>The kinds, counted</summary>{explained}</details>
<form id="filters">
<label>kind<select name="kind">{everything}{kinds}</select></label>
<label>class<select name="class">{everything}{classes}</select></label>
<label>size<select name="size">{everything}{sizes}</select></label>
<label><span>score at least <span id="least">0.00</span></span>
<input type="range" name="score" min="0" max="1" step="0.05" value="0"></label>
<button type="reset">all</button><span id="shown" class="quiet" aria-live="polite"></span>
</form>
<div class="gallery">{"".join(_figure(one, categories) for one in examples)}</div>"""


def _figure(one: Example, categories: Mapping[int, str]) -> str:
    finding = one.finding
    name = page_text(categories[finding.category_id], 60)
    score = "" if finding.found is None else f"{finding.found['score']:.3f}"
    said = [f"<b>{finding.kind}</b>: {name}"]
    if finding.kind == "wrong class" and finding.found is not None:
        said[0] += f", found as {page_text(categories[finding.found['category_id']], 60)}"
    said += [f"IoU {finding.iou:.2f}"] if finding.iou is not None else []
    said += [f"score {score}"] if score else []
    said += [finding.size, page_text(finding.record.path.name, 60)]
    return (
        f'<figure data-kind="{finding.kind}" data-class="{finding.category_id}" data-size="{finding.size}" '
        f'data-score="{score}"><img loading="lazy" alt="image, truth and result: {finding.kind}, {name}" '
        f'src="{one.picture}"><figcaption>{" · ".join(said)}</figcaption></figure>\n'
    )


def _skipped(evaluation: Evaluation | None, training: Iterable[str]) -> str:
    lines = [f"training: {line}" for line in training]
    if evaluation is not None:
        lines += [*evaluation.remarks(), *(f"skipped: {problem}" for problem in evaluation.problems)]
        names = evaluation.categories_without_class
        lines += [f"left out: category that the detector lacks: {name}" for name in names]
        lines.append(f"classes: {evaluation.classes}")
    if not lines:
        return "<h2>What was left out</h2><p>Nothing.</p>"
    shown = "".join(f"<li>{page_text(line, 400)}</li>" for line in lines[:MOST_LINES])
    more = f"<p>… and {len(lines) - MOST_LINES:,} more.</p>" if len(lines) > MOST_LINES else ""
    return f"<h2>What was left out</h2><ul>{shown}</ul>{more}"


def _options(options: Mapping[str, Any]) -> str:
    if not options:
        return ""
    rows = [[page_text(name), page_text(value, 400)] for name, value in options.items()]
    shown = table(["option", "value"], rows, "options")
    return f"<h2>Configuration</h2><details><summary>{len(rows)} options</summary>{shown}</details>"
