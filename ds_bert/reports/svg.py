"""What matplotlib draws as a part of a page, or as a file: with variables for colours, and small.

`palette.css` beside the templates says what the variables are, in light and in dark.
"""

import re
from html import escape
from pathlib import Path

import xxhash

PALETTE = (Path(__file__).with_name("templates") / "palette.css").read_text(encoding="utf-8")
NUM_COLORS = 6  # of lines and bars, in palette.css
# What matplotlib draws with; each becomes a variable.
NAMES = ("text", "soft", "page", "grid", *(f"line-{n}" for n in range(1, NUM_COLORS + 1)))
INKS = {name: f"#0a0b{number:02x}" for number, name in enumerate(NAMES, 1)}
_INK = re.compile(r"#0a0b([0-9a-f]{2})")


def cleaned(text: str, name: str, width: float, height: float) -> str:
    """An SVG of matplotlib as an element of a page: our colours, the page's font, names of its own.

    Args:
        text: the file.
        name: of what is drawn, for those who do not see it; no other drawing of the page has it.
        width: of the drawing.
        height: of the drawing.
    """
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([\w.-]+)', body))
    mine = xxhash.xxh32_hexdigest(name.encode())  # other drawings have the same parts
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{mine}{m[1]}"' * (m[1] in used), body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{mine}", body)
    body = _INK.sub(lambda m: f"var(--{NAMES[int(m[1], 16) - 1]})", body)
    body = re.sub(r"font(-family)?: [^;\"]*'DejaVu[^;\"]*;?", _size_alone, body)
    lines = (line.strip() for line in body.splitlines())
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(name)}">'
    return "\n".join([opening, *(line for line in lines if line), "</svg>"])


def _size_alone(font: re.Match) -> str:
    """A text has the size that matplotlib has laid out, in the font of the page."""
    size = re.match(r"font: ([\d.]+px)", font[0])
    return f"font-size: {size[1]};" if size else ""


def as_file(drawing: str, title: str, note: str = "") -> str:
    """A drawing as a file of its own, with a title and a line of smaller text above it."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    assert box is not None
    width, height, head = float(box[1]), float(box[2]), 66
    opening = f'<svg y="{head}" width="{width:g}" height="{height:g}" '
    inner = drawing.replace("<svg ", opening, 1)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height + head:g}" '
            f'width="{width:g}" height="{height + head:g}" role="img" aria-label="{escape(title)}" '
            'font-family="system-ui, Helvetica, Arial, sans-serif">',
            f"<style>{PALETTE.replace(':root', 'svg')}</style>",
            '<rect width="100%" height="100%" rx="8" fill="var(--page)"/>',
            f'<text x="24" y="34" font-size="18" fill="var(--text)">{escape(title)}</text>',
            f'<text x="24" y="54" font-size="11" fill="var(--soft)">{escape(note)}</text>',
            f"{inner}\n</svg>\n",
        ]
    )
