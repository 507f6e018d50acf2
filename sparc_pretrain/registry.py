"""MMEngine registries of scope ``sparc``: children of mmengine's roots, so ``type='sparc.X'`` works
anywhere.
"""

from __future__ import annotations

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODEL_WRAPPERS as ROOT_MODEL_WRAPPERS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import Registry

HERE = ["sparc_pretrain"]

MODELS = Registry("model", parent=ROOT_MODELS, scope="sparc", locations=HERE)
MODEL_WRAPPERS = Registry(
    "model_wrapper", parent=ROOT_MODEL_WRAPPERS, scope="sparc", locations=HERE
)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=ROOT_OPTIM_WRAPPERS, scope="sparc", locations=HERE
)
DATA_SAMPLERS = Registry(
    "data sampler", parent=ROOT_DATA_SAMPLERS, scope="sparc", locations=HERE
)
DATASETS = Registry("dataset", parent=ROOT_DATASETS, scope="sparc", locations=HERE)
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope="sparc", locations=HERE)
OBJECTIVES = Registry("objective", scope="sparc", locations=HERE)
