"""The tasks of tools/zeroshot.py, by name. A new one is a file here with a `Task`, and a line
below.

Nothing here imports torch before a task reads its data.
"""

from __future__ import annotations

from sparc_pretrain.zeroshot.tasks.attribute_swap import AttributeSwap
from sparc_pretrain.zeroshot.tasks.base import Task
from sparc_pretrain.zeroshot.tasks.classification import Classification
from sparc_pretrain.zeroshot.tasks.faithfulness import Faithfulness
from sparc_pretrain.zeroshot.tasks.grounding import Grounding
from sparc_pretrain.zeroshot.tasks.regions import Regions
from sparc_pretrain.zeroshot.tasks.retrieval import Retrieval
from sparc_pretrain.zeroshot.tasks.segmentation import Segmentation
from sparc_pretrain.zeroshot.tasks.terms import Terms

ALL = (
    Retrieval,
    Faithfulness,
    Classification,
    Segmentation,
    Grounding,
    Regions,
    AttributeSwap,
    Terms,
)
TASKS: dict[str, Task] = {task.name: task() for task in ALL}
