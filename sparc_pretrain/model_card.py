"""The card of a run folder: what a reader, and the Hugging Face hub, are told of it."""

from __future__ import annotations

import json
from typing import Any


def model_card(config: dict[str, Any]) -> str:
    """A README for the folder: what it is, how it was made, how to use it; above it the YAML that
    the Hugging Face hub reads.
    """
    vision, objective = config["vision"], config["objective"]
    source = config.get("source") or {}
    name = source.get("name") or (objective.get("type", "?") if objective else "none")
    origin = "{library}: {name}".format(**source) if source else "pre-trained here"
    text = config["text"] or {}
    return f"""{_front_matter(config)}# {name} backbone: {vision["arch"]} at {vision["img_size"]} px

| | |
|---|---|
| vision tower | {vision["arch"]}, width {vision["width"]}, patch {vision["patch"]} |
| text tower | width {text.get("width")}, {text.get("layers")} layers |
| weights | {origin} |
| shared width | {config["width"]} |
| objective | {json.dumps(objective)} |
| image-text pairs seen | {config.get("samples_seen")} |
| code | sparc_pretrain {config.get("code_version")} |

```python
from sparc_pretrain.dual_encoder import DualEncoder

model = DualEncoder.from_pretrained("path/to/this/folder")  # or "user/name" on the hub
```
In any MMDetection or MMSegmentation config: `custom_imports = dict(imports=['transfer'])` and
`backbone=dict(type='sparc.SparcViT', run='path/to/this/folder')`.

Weights only know what their training captions said; check them on your own data before relying on
them.
"""


def _front_matter(config: dict[str, Any]) -> str:
    """Licence, library, task and tags as the hub wants them. The licence is that of the training
    data and of the weights it began with, which nobody but the trainer knows.
    """
    objective = (config["objective"] or {}).get("type")
    source = (config.get("source") or {}).get("name")
    task = "zero-shot-image-classification" if config["text"] else "image-feature-extraction"
    tags = ["vision", "image-text", "mmdetection", "mmsegmentation"]
    tags += [objective.lower()] if objective else []
    lines = ["license: other", "license_name: of-the-training-data", "library_name: sparc_pretrain"]
    lines += [f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in tags)]
    if source and source.count("/") == 1:  # a name on the hub
        lines.append(f"base_model: {json.dumps(source)}")
    return "---\n" + "\n".join(lines) + "\n---\n"
