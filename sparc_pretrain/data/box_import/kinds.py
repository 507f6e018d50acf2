"""The kinds of box annotations by name: data alone, a command line is read without torch."""

from __future__ import annotations

SEVERAL = ("skip", "union", "each")  # what a phrase of several boxes becomes
LINES = ("xvlm", "odvg")  # JSON lines of other projects, which can be written, too
KINDS = (*LINES, "coco", "objects365", "lvis", "vg", "entities", "scenes")
