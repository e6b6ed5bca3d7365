"""Packaging. Pinned versions with hashes are in requirements.lock."""

import pathlib

import setuptools

# The floor of a range is what the tests ran with; the ceiling is the next
# release that may change an interface that we use.
REQUIRES = [
  "absl-py>=2.5.1,<3",
  "array_record>=0.8.6,<0.9",
  "chex>=0.1.92,<0.2",
  "flax>=0.12.8,<0.13",
  "gguf>=0.19.0,<0.20",
  "grain>=0.2.18,<0.3",
  "jax>=0.10.2,<0.11",
  "jinja2>=3.1.6,<4",
  "matplotlib>=3.11.2,<4",
  "ml-collections>=1.1.0,<2",
  "numpy>=2.4.6,<3",
  "optax>=0.2.8,<0.3",
  "orbax-checkpoint>=0.12.8,<0.13",
  "pyarrow>=26.0.1,<27",
  "rich>=15.0.0,<16",
  "safetensors>=0.8.0,<0.9",
  "tensorboardX>=2.6.5,<3",
  "tensorflow-datasets>=4.9.10,<5",
  "tokenizers>=0.23.3,<0.24",
]

EXTRAS = {
  "tpu": ["jax[tpu]>=0.10.2,<0.11"],
  "gpu": ["jax[cuda12]>=0.10.2,<0.11"],
  "hub": ["huggingface_hub>=2.4.0,<3"],
  # Measures of the embedded demonstration; training never sees them.
  "demo": ["textblob>=0.20.1,<0.21", "vaderSentiment>=3.3.2,<4"],
  # setuptools and wheel: the editable install runs without build isolation.
  "dev": [
    "codespell>=2.4,<3",
    "hypothesis>=6.170,<7",
    "pre-commit>=4.7,<5",
    "pytest>=9.2,<10",
    "pytest-xdist>=3.8,<4",
    "ruff>=0.17.6,<0.18",
    "setuptools>=68",
    "wheel>=0.45",
  ],
}

setuptools.setup(
  name="xpo_jax",
  version="0.1.0",
  description="Preference alignment of language models in JAX",
  long_description=(pathlib.Path(__file__).parent / "README.md").read_text(
    encoding="utf-8"
  ),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11,<3.13",
  packages=setuptools.find_packages(include=["xpo_jax", "xpo_jax.*"]),
  package_data={"xpo_jax.judges": ["prompts/*.txt", "prompts/*.json"]},
  install_requires=REQUIRES,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["xpo = xpo_jax.cli:main"]},
)
