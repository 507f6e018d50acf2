"""Weights in and out: checkpoints of open_clip, timm and Hugging Face <-> run folders."""
