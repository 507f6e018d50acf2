"""MMEngine registries of scope ``sparc``: children of mmengine's roots, so ``type='sparc.X'`` works
anywhere.
"""

from __future__ import annotations

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODEL_WRAPPERS as ROOT_MODEL_WRAPPERS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPERS as ROOT_OPTIM_WRAPPERS
from mmengine.registry import Registry

# `locations`: what is imported when a name is first looked up. Backbones, metrics and captioning
# are registered by importing `transfer`.
MODELS = Registry(
    "model", parent=ROOT_MODELS, scope="sparc", locations=["sparc_pretrain.pretraining.pretrainer"]
)
MODEL_WRAPPERS = Registry(
    "model_wrapper",
    parent=ROOT_MODEL_WRAPPERS,
    scope="sparc",
    locations=["sparc_pretrain.pretraining.pretrainer"],
)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=ROOT_OPTIM_WRAPPERS, scope="sparc", locations=["sparc_pretrain.engine"]
)
DATA_SAMPLERS = Registry(
    "data sampler",
    parent=ROOT_DATA_SAMPLERS,
    scope="sparc",
    locations=["sparc_pretrain.data.sampler"],
)
DATASETS = Registry(
    "dataset", parent=ROOT_DATASETS, scope="sparc", locations=["sparc_pretrain.data.dataset"]
)
HOOKS = Registry(
    "hook",
    parent=ROOT_HOOKS,
    scope="sparc",
    # the second needs the towers, which `sparc_pretrain.engine` alone does without
    locations=[
        "sparc_pretrain.engine",
        "sparc_pretrain.pretraining.hooks",
        "sparc_pretrain.pretraining.zeroshot_hook",
    ],
)
METRICS = Registry("metric", parent=ROOT_METRICS, scope="sparc", locations=["sparc_pretrain"])
OBJECTIVES = Registry("objective", scope="sparc", locations=["sparc_pretrain.objectives"])
