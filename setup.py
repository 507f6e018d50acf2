"""Packaging of sparc_pretrain (pre-training) and transfer (detection, segmentation, captioning)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = (HERE / "sparc_pretrain" / "__init__.py").read_text().split('"')[1]

setup(
    name="sparc-transfer",
    version=VERSION,
    description="SPARC image-text pre-training, and its backbones in MMDetection, MMSegmentation "
    "and captioning",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["sparc_pretrain*", "transfer*"]),
    package_data={"sparc_pretrain.report": ["page.html"]},
    # Floors, not pins: constraints.txt holds the versions the tests pass with.
    install_requires=[
        # below 2.10 torch.load(weights_only=True) can be made to run code (CVE-2026-24747)
        "torch>=2.10",
        "torchvision",
        "numpy>=2",
        "pillow",
        "opencv-python-headless",
        "tqdm",
        "tensorboard",
        "matplotlib",
        "jinja2",
        "timm>=1.0.28",
        "transformers>=5",
        "tokenizers",
        "safetensors",
        "braceexpand",
        "open_clip_torch>=3.3",
        "onedl-mmengine>=0.10.12",
        "onedl-mmcv>=2.3.6",
        "onedl-mmdetection>=3.5.1",
        "onedl-mmsegmentation>=1.4.2",
        "pycocotools",
        "pycocoevalcap",
        "hotcoco",
        "faster-coco-eval",  # mmdet.evaluation warns without it
        "scipy",
        "scikit-learn",  # mmdet's PAA and LAD heads import it
        "ftfy",
        "regex",
        "textblob>=0.19",  # its PatternTagger has its lexicon in the wheel: nothing is downloaded
    ],
    extras_require={
        "test": ["pytest", "pytest-cov", "ruff", "webdataset", "lvis"],
        "logging": ["wandb", "mlflow"],
    },
)
