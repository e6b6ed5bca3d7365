"""Compiling for one host of GPUs without one, through jax's CUDA plugin."""

import importlib
import os
from pathlib import Path
import sys
import zipfile

from xpo_jax import fetch

VERSION = "0.10.2"  # jax's own: the plugin refuses another
PLUGINS = (
  (
    f"jax-cuda12-pjrt=={VERSION}",
    "806d1fd29038b6acf5a2b289dd62192abea977ee26aef60ea295b1d28a23acf8",
  ),
  (
    f"jax-cuda12-plugin=={VERSION}",
    "76bbfece2f6effb4e8908eb8a5fbf1abbc1125de667683ec2ffba51c63dc57af",
  ),
)
# What the compiler must know of an H100 SXM, from its data sheet.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32
  shared_memory_per_block: 49152  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  clock_rate_ghz: 1.98  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def prepare() -> None:
  """Fetches the plugin into its own folder and makes it importable.

  It is never installed beside jax. Call before jax initialises anything.

  Raises:
    XpoError: (74) it cannot be fetched or unpacked.
  """
  folder = fetch.cache_folder() / "cuda" / VERSION
  if not (folder / "done").exists():
    folder.mkdir(parents=True, exist_ok=True)
    for requirement, sha256 in PLUGINS:
      _unpack(fetch.fetch(requirement, sha256, binary=True), folder)
    (folder / "done").touch()
  if str(folder) not in sys.path:
    sys.path.append(str(folder))
    importlib.invalidate_caches()
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # that no driver is here is known


def _unpack(wheel: Path, folder: Path) -> None:
  with zipfile.ZipFile(wheel) as z:
    z.extractall(folder)  # a wheel of pinned hash


def devices(count: int):
  """`count` H100s of one host, which can be compiled for and nothing else."""
  from jax.experimental import topologies

  return topologies.get_topology_desc(
    platform="cuda",
    topology_name="",
    topology=f"1x1x{count}",
    target_config=H100,
  ).devices
