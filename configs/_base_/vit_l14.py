"""ViT-L/14, its patches resampled to 16 px for dense heads."""

vit_l14 = dict(arch="vit_large_patch14_224", img_size=224, width=1024, patch=14)
