"""A detector of whatever words name, fine-tuned as OWL-ViT does it (arXiv 2205.06230).

Its modules derive from mmdet's classes, whose import takes ten seconds: configs name the package's
modules in `custom_imports` (see configs/_base_/open_vocabulary.py).
"""
