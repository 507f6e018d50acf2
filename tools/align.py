"""Which patches of a photo each word of a caption gathers: a picture, and a page to touch.

python tools/align.py sparc-scenes-tiny photo.jpg "a brown fish on snow" --out words.png

Writes words.png and words.html (hover or tap a word, click a patch, switch to another image). A
word is held against other images: the difference is what its own image has to do with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from sparc_pretrain.zeroshot.readings import Reading


def main(argv: list[str] | None = None) -> int:
    """Align, draw, and say which words stand out."""
    parser = flags.parser(__doc__)
    parser.add_argument("run", help="run folder, a work dir that holds one, or sparc-scenes-tiny")
    parser.add_argument("image", help="a photo of any size")
    parser.add_argument("caption", help="what is said of it")
    parser.add_argument("--out", help="PNG (default: IMAGE_words.png in this folder)")
    parser.add_argument("--width", type=int, default=1280, help="of the picture, pixels")
    parser.add_argument(
        "--others", nargs="+", metavar="IMAGE", help="to hold it against (default: 4 of its folder)"
    )
    args = parser.parse_args(argv)
    from PIL import Image

    from sparc_pretrain.page.answers import Answers
    from sparc_pretrain.page.viewer import printable
    from sparc_pretrain.zeroshot import encode, readings
    from sparc_pretrain.zeroshot.alignment_sheet import sheet

    image = encode.open_image(args.image)
    out = Path(args.out or f"{Path(args.image).stem}_words.png")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out {out}: use a .png, .jpg or .webp file")
    files = list(map(Path, args.others or ())) or readings.neighbours(Path(args.image))
    others = [encode.open_image(file) for file in files]
    model = Answers.of(args.run)
    caption = printable(args.caption)
    names = [Path(args.image).name, *(file.name for file in files)]
    found, page = model.words(image, others, names, caption)
    picture = sheet(image, caption, found[0], args.width, model.measured)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(out)
    html = out.with_suffix(".html")
    html.write_text(page, encoding="utf-8")
    tell(found[0], len(files))
    unread = caption[found[0].own[-1].end :].strip(" .,;:!?")
    if unread:
        print(f"not read, beyond this model's {model.model.text.max_tokens} tokens: {unread}")
    print(printable(f"{model.measured}\nwritten to {out} and, to touch, {html}"))
    return 0


def tell(reading: Reading, count: int) -> None:
    """Print a line per word: the difference first."""
    if not count:
        print("no other image in its folder to hold it against: give some with --others")
    print("word            difference   its image    others   peak (even share = 1)")
    for number, word in enumerate(reading.own):
        gap, elsewhere = reading.gap(number), reading.elsewhere(number)
        score = rounded(word.score)
        held = (
            f"{rounded(gap):>+12.2f}{score:>12.2f}{rounded(elsewhere):>10.2f}"
            if count
            else f"{score:>24.2f}"
        )
        mark = f"   in {word.pieces} pieces: rare in the tokenizer's training text, or not there"
        print(f"{word.word:<14}{held}{word.peak:>10.1f}{mark if word.pieces > 1 else ''}")
    if count:
        above = [w.word for n, w in enumerate(reading.own) if reading.stands_out(n)]
        chance = f"by chance 1 word in {count + 1} is"
        print(f"above every one of {count} other images ({chance}): {', '.join(above) or 'none'}")


def rounded(value: float) -> float:
    """To two digits, zero without a sign: +0.00 for -0.004."""
    return round(value, 2) + 0.0


if __name__ == "__main__":
    cli.guard(main)
