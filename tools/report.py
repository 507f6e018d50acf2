"""One self-contained HTML page of pre-trainings, evaluations and what they look like.

    python tools/report.py work_dirs --out report.html
    python tools/report.py work_dirs/flickr8k --images data/flickr8k/images \
        --captions data/flickr8k/captions_val.json

--phrases takes what `sparc zeroshot RUN grounding` takes: boxes of the captions' phrases.
"""

from __future__ import annotations

from sparc_pretrain.command import cli, flags


def main(argv: list[str] | None = None) -> int:
    """Write the page; exit code 2 when there is nothing to report."""
    parser = flags.parser(__doc__)
    parser.add_argument("work_dirs", nargs="+", help="searched, with all folders below them")
    parser.add_argument("--out", default="report.html")
    parser.add_argument("--images", nargs="+", help="folders or files: samples and alignments")
    parser.add_argument("--captions", help="their captions: COCO, Karpathy, token.txt, CSV, JSONL")
    parser.add_argument("--phrases", help="where their captions' phrases are: outlined on the maps")
    parser.add_argument("--title")
    args = parser.parse_args(argv)
    from sparc_pretrain.page.viewer import printable
    from sparc_pretrain.report.page import TITLE, build

    what = args.images, args.captions, args.title or TITLE, args.phrases
    out = build(args.work_dirs, args.out, *what)
    print(printable(f"{out}: {out.stat().st_size / 1e6:.1f} MB"))
    return 0


if __name__ == "__main__":
    cli.guard(main)
