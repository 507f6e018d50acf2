"""Packaging of sparc_pretrain (pre-training) and transfer (detection, segmentation, captioning)."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
REMOTE = ["obstore>=0.8"]  # s3://, gs://, https://
TEST = ["pytest", "pytest-cov", "pytest-xdist", "ruff", "webdataset", "lvis", *REMOTE]
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]
VERSION = (HERE / "sparc_pretrain" / "__init__.py").read_text().split('"')[1]


class BuildWithShippedFiles(build_py):
    """Puts what the code reads besides itself into `sparc_pretrain/.mim`, where mm packages have
    it (see sparc_pretrain/shipped.py); an editable installation reads the checkout.
    """

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / "sparc_pretrain" / ".mim"
        shutil.rmtree(mim, ignore_errors=True)
        for name in ("configs", "assets"):
            ignored = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(HERE / name, mim / name, ignore=ignored)
        shutil.copy(HERE / "constraints.txt", mim)
        (mim / "model-index.yml").write_text("Import: []\n")  # mim looks for one


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
    url="https://arxiv.org/abs/2401.09865",
    project_urls={"Paper": "https://arxiv.org/abs/2401.09865"},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    keywords="SPARC CLIP contrastive pre-training detection segmentation captioning mmdet mmseg",
    packages=[*find_packages(include=["sparc_pretrain*", "transfer*"]), "sparc_tools"],
    package_dir={"sparc_tools": "tools"},
    package_data={
        "sparc_pretrain": ["py.typed"],
        "transfer": ["py.typed"],
        "sparc_pretrain.report": ["*.html", "*.css"],
        "sparc_pretrain.page": ["*.html", "*.css", "*.js"],
    },
    cmdclass={"build_py": BuildWithShippedFiles},
    entry_points={"console_scripts": ["sparc = sparc_tools.__main__:main"]},
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
        "pydantic-core",  # JSON of detections, three times as fast; transformers brings it
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
        "test": [*TEST, *DOCS],  # a test builds the site
        "logging": ["wandb", "mlflow"],
        "remote": REMOTE,
        "demo": ["gradio>=5"],  # it asks for an older pillow than constraints.txt has
        "docs": DOCS,
    },
)
