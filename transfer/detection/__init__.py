"""Detection: importing this package registers the metrics.

The open-vocabulary detector derives from mmdet's classes, whose import takes ten seconds: its
configs name its modules in `custom_imports` (see configs/_base_/open_vocabulary.py).
"""

from transfer.detection import evaluator, federated, fixed_ap, repeat_factors  # noqa: F401
