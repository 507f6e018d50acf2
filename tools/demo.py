"""A page to type into: words on patches, boxes of words, and images of a folder that fit a text.

python tools/demo.py sparc-scenes-tiny --images data/few_scenes/images/val --port 7860

Needs gradio (pip install gradio). It answers on this machine only: --host 0.0.0.0 opens it to the
network, where anybody may then ask it.
"""

from __future__ import annotations

from pathlib import Path

from sparc_pretrain.command import cli, flags


def main(argv: list[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = flags.parser(__doc__)
    parser.add_argument("run", help="run folder, a work dir that holds one, or sparc-scenes-tiny")
    parser.add_argument(
        "--images", metavar="DIR", help="photos to look among, and to hold a caption against"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    args = parser.parse_args(argv)
    from sparc_pretrain.data.image_folder import image_files
    from sparc_pretrain.page import demo
    from sparc_pretrain.page.answers import Answers

    files = []
    if args.images:
        if not Path(args.images).is_dir():
            raise FileNotFoundError(f"--images {args.images}: no such folder")
        files, _ = image_files(Path(args.images))
        if not files:
            raise ValueError(f"--images {args.images}: no images in it")
    demo.serve(demo.app(Answers.of(args.run, files)), args.host, args.port, files)
    return 0


if __name__ == "__main__":
    cli.guard(main)
