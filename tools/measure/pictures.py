"""The pictures of README: words on patches, the viewer and the head of a report, by a real browser.

    python tools/measure/pictures.py [--report work_dirs/quickstart/report.html]

Needs chromium (Debian: apt-get install chromium). Writes docs/images.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
CAPTION = "a brown fish and an orange cup on snow"
WIDTH, HEIGHT = 1120, 860
DARK = "--blink-settings=preferredColorScheme=0"


def main(argv: list[str] | None = None) -> int:
    """Make them; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="a page of sparc report, for its head")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = ["--level", "easy", "--train", "4", "--val", "8", "--size", "64"]
        tool("data", "scenes", "--out", str(folder / "scenes"), *scenes)
        photo, out = folder / "scenes/images/val/500000.jpg", folder / "words.png"
        tool("align", "sparc-scenes-tiny", str(photo), CAPTION, "--out", str(out))
        shutil.copy(out, IMAGES / "words.png")
        page = (folder / "words.html").as_uri()
        light = shot(f"{page}#word=2", folder / "light.png", HEIGHT)
        dark = shot(f"{page}#word=2&picture=1", folder / "dark.png", HEIGHT, DARK)
        side_by_side([light, dark], IMAGES / "viewer.jpg")
        if args.report:
            head = shot(args.report.resolve().as_uri(), folder / "report.png", 1500)
            side_by_side([head], IMAGES / "report.jpg")
    return 0


def tool(name: str, *argv: str) -> None:
    """Run a tool; raises CalledProcessError."""
    subprocess.run([sys.executable, str(ROOT / "tools" / f"{name}.py"), *argv], check=True)


def shot(address: str, out: Path, height: int, *flags: str) -> Path:
    """A picture of a page. Raises FileNotFoundError without a browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        raise FileNotFoundError("no chromium: apt-get install chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *flags]
    command += ["--virtual-time-budget=4000", f"--window-size={WIDTH},{height}"]
    subprocess.run([*command, f"--screenshot={out}", address], check=True, capture_output=True)
    return out


def side_by_side(files: list[Path], out: Path, gap: int = 20) -> None:
    """Pictures in a row, at most 1600 pixels wide."""
    from PIL import Image

    pictures = [Image.open(file).convert("RGB") for file in files]
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    if row.width > 1600:
        row = row.resize((1600, round(row.height * 1600 / row.width)), Image.Resampling.LANCZOS)
    row.save(out, quality=86, subsampling=0, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main())
