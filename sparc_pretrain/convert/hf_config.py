"""config.json of a Hugging Face folder or name, without what in it would bring code."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

# What a file may not choose: attention and experts can be names on the hub, whose kernels
# transformers fetches and runs.
KERNELS = ("_attn_implementation", "_experts_implementation")


def read_config(source: str, **options: Any) -> PretrainedConfig:
    """The configuration of `source`; how it is computed is transformers' choice, never the file's.

    Raises:
        ValueError: quantised weights (their readers are packages that the file names), or what
            transformers raises.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    for part in _parts(config):
        if getattr(part, "quantization_config", None) is not None:
            raise ValueError(
                f"{source} holds quantised weights, which are not read: take the plain ones"
            )
        for name in KERNELS:
            if getattr(part, name, None) is not None:
                setattr(part, name, None)
    return config


def _parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    """A configuration and those inside of it, at any depth."""
    inner = [value for value in vars(config).values() if isinstance(value, PretrainedConfig)]
    return [config, *(part for one in inner for part in _parts(one))]
