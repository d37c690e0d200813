"""Pages for people: one HTML file each that loads nothing from elsewhere.

What is written into a template is escaped; drawings alone are taken as they are. Jinja2 is imported
when a page is made, matplotlib when it has a chart. Without matplotlib a chart is its table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ds_bert.reports import charts
from ds_bert.reports.svg import PALETTE


@dataclass(frozen=True)
class Chart:
    """A chart of a page: what is drawn, what it says in words, and its values as a table.

    Attributes:
        title: its heading, different from those of other charts of the page.
        panel: what is drawn.
        header: names of the table's columns.
        rows: the table.
        text: what there is to know, a sentence or two.
    """

    title: str
    panel: charts.Panel
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: str = ""

    @cached_property
    def drawing(self) -> Any:
        """The SVG; empty where it cannot be drawn."""
        from markupsafe import Markup  # of Jinja2

        return Markup(charts.draw(self.panel, self.title)) if charts.is_available() else ""


def render(template: str, title: str, **content: Any) -> str:
    """A page from its template in the folder `templates`; the same content gives the same bytes.

    Args:
        template: name of the file.
        title: of the page.
        content: what the template asks for.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).with_name("templates")
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(
        title=title, palette=Markup(PALETTE), **content
    )
