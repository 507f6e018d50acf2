"""Check every byte of run folders and checkpoints against their manifests.

python tools/verify.py work_dirs/sparc/run work_dirs/sparc/iter_500.pth

Of a work dir, all its checkpoints and the run folder; of an address (s3://...) the run folder,
which is fetched.
"""

from __future__ import annotations

import os
from pathlib import Path

from sparc_pretrain.command import cli, flags


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when everything is intact; the first damage ends with exit code 2."""
    parser = flags.parser(__doc__)
    parser.add_argument("paths", nargs="+", help="run folders, work dirs or checkpoint files")
    paths = parser.parse_args(argv).paths
    from sparc_pretrain import run_folder
    from sparc_pretrain.data.address import is_remote
    from sparc_pretrain.engine import checkpoint
    from sparc_pretrain.zeroshot import encode

    def show(run: run_folder.RunFolder) -> None:
        encode.check(run)
        seen = run.config.get("samples_seen")
        print(f"{run.path}: intact, sha256 {run.sha256}, {seen} pairs seen")

    for text in paths:
        path = Path(text)
        if is_remote(text):
            show(run_folder.verify(text))
            continue
        if path.is_file():
            checkpoint.verify(path)
            print(f"{path}: intact")
            continue
        saved = checkpoint.numbered(path)
        for file in saved:
            checkpoint.verify(file)
            print(f"{file}: intact")
        if not saved or os.path.lexists(path / "run"):  # a fine-tuned work dir has no run folder
            show(run_folder.verify(path))
    return 0


if __name__ == "__main__":
    cli.guard(main)
