"""mmdet's classes that ours derive from or build, imported without the noise mmdet makes.

Importing this takes ten seconds, so `transfer` itself does not.
"""

from importlib import import_module

from transfer import mm

mm.register("mmdet")

BaseDetector = import_module("mmdet.models.detectors.base").BaseDetector
CocoDataset = import_module("mmdet.datasets.coco").CocoDataset
HorizontalBoxes = import_module("mmdet.structures.bbox").HorizontalBoxes
