"""Detection: importing this package registers the metric."""

from transfer.detection import evaluator  # noqa: F401
