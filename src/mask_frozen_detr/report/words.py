"""Text of users and files in a page: nothing in it is ever markup, and no name is endless."""

import html
import math

from mask_frozen_detr.errors import printable

LONGEST = 120  # characters of a name in a page
LONGEST_IN_CHART = 32


def page_text(text: object, limit: int = LONGEST) -> str:
    """A text for HTML, between tags and in quoted attributes."""
    return html.escape(printable(str(text), limit))


def chart_text(text: object) -> str:
    """A text for Plotly, which reads a few tags and entities in its labels."""
    return html.escape(printable(str(text), LONGEST_IN_CHART), quote=False)


def figure_text(value: float | None) -> str:
    """An AP, in percent, as `evaluate` prints it."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def ratio_text(mask: float | None, box: float | None) -> str:
    """Mask AP as a share of box AP."""
    if mask is None or box is None or math.isnan(mask) or math.isnan(box) or not box:
        return "–"
    return f"{mask / box:.2f}"
