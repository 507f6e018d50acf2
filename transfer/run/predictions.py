"""What mmdet's and mmseg's test.py leave beside numbers: pictures of every prediction (``--show``,
``--show-dir``, ``--wait-time``) and the predictions themselves (``--out``).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmengine.config import Config, ConfigDict

PICKLES = (".pkl", ".pickle")


def draw_tests(cfg: Config, show: bool, folder: str | None, seconds: float) -> Config:
    """Let the config's visualization hook draw every prediction, in place.

    Args:
        show: in a window, for `seconds` each. folder: pictures go there; None = nowhere.

    Raises:
        ValueError: the config has no such hook, or there is no display to show on.
    """
    hooks = cfg.get("default_hooks") or {}
    if "visualization" not in hooks:
        raise ValueError(
            "--show and --show-dir: the config has no default_hooks.visualization, which draws; "
            "mmdet's and mmseg's default_runtime.py bring one"
        )
    headless = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if show and headless and sys.platform.startswith("linux"):
        raise ValueError("--show: there is no display; --show-dir DIR writes pictures instead")
    hook = hooks["visualization"]
    hook.update(draw=True, show=show, wait_time=seconds)
    if folder is None:
        return cfg
    place = str(Path(folder).absolute())
    if cfg.get("default_scope") == "mmseg":  # mmseg's hook leaves it to the visualizer
        cfg.visualizer.save_dir = place
        cfg.visualizer.vis_backends = [ConfigDict(type="LocalVisBackend")]
        hook["interval"] = 1
    else:
        hook["test_out_dir"] = place
    return cfg


def dump_tests(cfg: Config, out: str) -> Config:
    """Let the evaluation keep the predictions, in place: of a detector as a pickle of mmdet's
    (``mmdet/tools/analysis_tools`` reads it), of a segmentor as PNG label maps in a folder.

    Raises:
        ValueError: another ending than .pkl, or a captioner, which keeps its captions anyway.
    """
    if cfg.get("task") == "captioning":
        raise ValueError("--out: a captioner's captions.json lies beside metrics.json")
    if cfg.get("default_scope") == "mmseg":
        cfg.test_evaluator.output_dir = out
        cfg.test_evaluator.keep_results = True
        return cfg
    if not out.endswith(PICKLES):
        raise ValueError(f"--out {out}: a detector's predictions go to a file that ends in .pkl")
    told = cfg.test_evaluator
    told = list(told) if isinstance(told, (list, tuple)) else [told]
    cfg.test_evaluator = [*told, ConfigDict(type="DumpDetResults", out_file_path=out)]
    return cfg
