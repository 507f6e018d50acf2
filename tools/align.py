"""Which patches of a photo each word of a caption gathers, as a picture.

python tools/align.py work_dirs/sparc/run photo.jpg "a brown dog jumps over a log" --out dog.png
"""

from __future__ import annotations

from pathlib import Path

from sparc_pretrain.command import cli, flags


def main(argv: list[str] | None = None) -> int:
    """Align, draw, and say which words stand out."""
    parser = flags.parser(__doc__)
    parser.add_argument("run", help="run folder, or the work dir that holds one")
    parser.add_argument("image", help="a photo of any size")
    parser.add_argument("caption", help="what is said of it")
    parser.add_argument("--out", help="PNG (default: IMAGE_words.png in this folder)")
    parser.add_argument("--width", type=int, default=1280, help="of the picture, pixels")
    args = parser.parse_args(argv)
    import torch
    from PIL import Image

    from sparc_pretrain.zeroshot import encode
    from sparc_pretrain.zeroshot.alignment import align
    from sparc_pretrain.zeroshot.alignment_sheet import sheet

    image = encode.open_image(args.image)
    out = Path(args.out or f"{Path(args.image).stem}_words.png")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"--out {out}: use a .png, .jpg or .webp file")
    model, objective = encode.load(args.run)
    if torch.cuda.is_available():
        model, objective = model.cuda(), objective.cuda()
    found = align(model, image, args.caption, objective=objective)
    words = [w for w in found if w.word[0].isalnum()]  # no commas
    if not words:
        raise ValueError("the caption has no words")
    unread = args.caption[words[-1].end :].strip(" .,;:!?")
    picture = sheet(image, args.caption, words, args.width)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(out)
    print("word            peak (even share = 1)   cosine")
    for word in words:
        print(f"{word.word:<16}{word.peak:>8.1f}{word.score:>22.2f}")
    if unread:
        print(f"not read, beyond this model's {model.text.max_tokens} tokens: {unread}")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    cli.guard(main)
