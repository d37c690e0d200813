"""Pages in a real browser: pictures light and dark, narrow and wide, and what axe-core says.

    pip install playwright axe-playwright-python pillow     (in an environment of its own)
    python benchmarks/pages.py --browser $(which chromium) PAGE.html... [--output FOLDER]

Every page is looked at with all its tables open. It fails where axe-core finds a violation, where a
page is wider than the window, or where it asks for anything but itself.
"""

import argparse
import io
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTHS, THEMES = (1400, 400), ("light", "dark")
COLORS = 256  # of a picture


def picture(page: Page, path: Path, height: int) -> None:
    """The page, or its upper part, as a small PNG."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, height)))
    image.quantize(COLORS, kmeans=1).save(path, optimize=True)


def look_at(page: Page, file: Path, path: Path | None, height: int) -> list[str]:
    """What is wrong with a page; a picture on the way."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    if path is not None:
        picture(page, path, height)
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    violations = Axe().run(page).response["violations"]
    problems = [f"{one['id']}: {one['help']} ({len(one['nodes'])} places)" for one in violations]
    problems += [f"{width} pixels wider than the window"] * (width > 0)
    return problems + [f"asks for {url}" for url in asked if url != file.as_uri()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--browser", help="Chromium; default: the one that playwright installs")
    parser.add_argument("--output", type=Path, help="folder for pictures")
    parser.add_argument("--height", type=int, default=10_000, help="of pictures, at most")
    args = parser.parse_args()
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    num_problems = 0
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=args.browser, args=flags)
        for file in (path.resolve() for path in args.pages):
            for theme in THEMES:
                for width in WIDTHS:
                    size = {"width": width, "height": 900}
                    page = browser.new_page(viewport=size, color_scheme=theme)
                    name = f"{file.parent.name}_{theme}_{width}"
                    path = args.output / f"{name}.png" if args.output else None
                    problems = look_at(page, file, path, args.height)
                    print(f"{name}: {'; '.join(problems) or '0 violations'}", flush=True)
                    num_problems += len(problems)
                    page.close()
        browser.close()
    return int(num_problems > 0)


if __name__ == "__main__":
    sys.exit(main())
