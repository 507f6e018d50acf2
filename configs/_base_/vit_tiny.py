"""The small backbone of the configs for two CPU cores; --backbone puts a run's in its place."""

vit_tiny = dict(arch="vit_tiny_patch16_224", img_size=128, width=192)
