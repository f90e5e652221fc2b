"""The package and its extras. `requirements/` pins the versions that were really tried together."""

from setuptools import find_packages, setup

RANGE_CODER = "constriction==0.5.0"  # of sets in few bits; another version might decode other symbols

setup(
    name="infoutil_jax",
    version="0.1.0",
    description="InfoUtil dataset distillation in JAX: real images to a few images per class, every bit and seed accounted for",
    python_requires=">=3.11",
    packages=find_packages(include=["infoutil_jax", "infoutil_jax.*"]),
    package_data={"infoutil_jax": ["report.html.j2", "data/class_orders/*.txt"]},
    install_requires=[
        "jax>=0.7.2",
        "flax>=0.11.2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.4",
        "tensorflow-datasets>=4.9.10",
        "numpy>=2.0",
        "absl-py>=2.3",
        "ml-collections>=1.1.0",
        "importlib_resources>=6.5",  # tensorflow-datasets 4.9.10 imports it without asking for it on Python >= 3.9
        "array_record>=0.8.3",  # tfds.data_source reads prepared datasets through it, without TensorFlow
        "google-crc32c>=1.8",  # the TFRecord format's checksum, at memory speed
        "safetensors>=0.8.0",  # reads weights from elsewhere; no code can hide in such a file
        "Pillow>=12.3",  # decodes and encodes images; older versions have known holes
        "scipy>=1.15",  # the assignment behind the hint on a teacher's class order
        "scikit-learn>=1.6",  # ships the embedded data: real scanned digits and two photographs
        "tqdm>=4.67",  # progress with rate and ETA
        "Jinja2>=3.1.6",  # report.html, with escaping on
    ],
    extras_require={
        "rate": [RANGE_CODER],
        "test": ["pytest>=9", "pytest-xdist>=3.8", "hypothesis>=6.150", RANGE_CODER],  # xdist: two cores at once
        "parity": [  # oracles of the models, of the weights' layouts and of the record format
            "torch==2.13.0",
            "torchvision==0.28.0",
            "timm==1.0.31",
            "tensorflow-cpu==2.21.0",
        ],
        "bench": [
            "torch==2.13.0",  # what the peers run on, and its own bare forward pass and gradient
            "captum>=0.9.0",  # KernelShap and ShapleyValueSampling
            "opacus>=1.6.0",  # per-example gradients through hooks
            "shapiq>=1.4.1",  # KernelSHAP, unpaired and with Leverage SHAP's design
            "matplotlib>=3.11",  # the plot
        ],
    },
)
