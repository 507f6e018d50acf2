"""Images and texts read together: a run's towers and fusion encoder under a classifier, for
questions about images (VQA) and statements about two of them (NLVR2).
"""

from transfer.pairs import classifiers, statements

__all__ = ["classifiers", "statements"]
