"""`_base_ = "sparc_pretrain::det/sparc_coco.py"` in configs that other people's tools read: mmdet's
and mmseg's own train.py read a config before anything of ours is imported, and mmengine finds the
packages of its own family only.

Nothing of an installation runs by itself when Python starts; who wants those tools to read such
configs asks for it, once per environment:

    python -m sparc_pretrain.startup [FOLDER]

writes a line into site-packages (`FILE` there; delete it to be rid of it) that imports this module,
which waits for `mmengine.config` and imports nothing else.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

FILE = "sparc_pretrain_configs.pth"
LINE = """\
import importlib.util as u; u.find_spec("sparc_pretrain") and __import__("sparc_pretrain.startup")
"""


class Waiting:
    """Finds nothing itself: once, it has `mmengine.config` taught as soon as that is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec that others find for `mmengine.config`, with a lesson behind it."""
        if name != "mmengine.config":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_teach(module: ModuleType) -> None:
            execute(module)
            from sparc_pretrain.shipped import teach_mmengine

            teach_mmengine()

        spec.loader.exec_module = execute_and_teach
        return spec


if __name__ == "__main__":
    line = Path(*sys.argv[1:] or [sysconfig.get_path("purelib")], FILE)
    line.write_text(LINE)
    print(f"{line}: mmdet's and mmseg's own tools read sparc_pretrain:: now; delete it to undo")
elif "mmengine.config" not in sys.modules:
    sys.meta_path.insert(0, Waiting())
