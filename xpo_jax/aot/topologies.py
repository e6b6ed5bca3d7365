"""Pods by the names that Cloud TPU gives them, for compiling without one.

A TPU's name counts chips (v5e, v6e) or cores, two a chip (v4, v5p, tpu7x).
libtpu wants the shape of the torus instead: v5p-128 is v5p:4x4x4. h100-8 is one
host of eight GPUs.
"""

import dataclasses
import difflib
import os
from pathlib import Path
import zipfile

from xpo_jax import fetch
from xpo_jax.aot import gpu
from xpo_jax.errors import usage_error

# The version that jax's extra `tpu` pins; a newer one miscompiles.
LIBTPU = "libtpu==0.0.42.1"
LIBTPU_SHA256 = (
  "4d9975c446f594b0b517510b3db2fc9df65acd9a08f253c638fff5eb6bce163e"
)
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Public figures of one device (a chip, or a core where noted).

  hbm: what the compiler lets a program use, GiB. flops: peak bfloat16 FLOP/s.
  bandwidth: HBM bytes/s. links: bytes/s a device can send over all its links.
  clock: Hz of the compiler's cycles, our assumption.
  """

  hbm: float
  flops: float
  bandwidth: float
  links: float
  clock: float
  devices: int = 1  # of jax on a chip


CHIPS = {
  "v4": Chip(16.0, 137.5e12, 614e9, 150e9, 1.05e9, devices=2),
  "v5e": Chip(15.75, 197e12, 819e9, 200e9, 1.5e9),
  "v5p": Chip(95.73, 459e12, 2765e9, 600e9, 1.75e9),
  "v6e": Chip(31.24, 918e12, 1640e9, 448e9, 1.75e9),
  "tpu7x": Chip(94.0, 1153e12, 3690e9, 600e9, 2.0e9, devices=2),
  "h100": Chip(79.1, 989e12, 3352e9, 450e9, 1.83e9),
}
_SHAPES_2D = {
  1: "1x1",
  4: "2x2",
  8: "2x4",
  16: "4x4",
  32: "4x8",
  64: "8x8",
  128: "8x16",
  256: "16x16",
}
_SHAPES_3D = {
  4: "2x2x1",
  8: "2x2x2",
  16: "2x2x4",
  32: "2x4x4",
  64: "4x4x4",
  128: "4x4x8",
  256: "4x8x8",
  512: "8x8x8",
  1024: "8x8x16",
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A pod: its Cloud name, libtpu's name, and one of its devices."""

  name: str
  libtpu: str
  chip: Chip
  devices: int

  @property
  def platform(self) -> str:
    """What jax calls the compiler."""
    return "tpu" if self.libtpu else "cuda"


def _table() -> dict[str, Topology]:
  table = {}
  for kind in ("v5e", "v6e"):
    for chips, shape in _SHAPES_2D.items():
      name = f"{kind}-{chips}"
      table[name] = Topology(name, f"{kind}:{shape}", CHIPS[kind], chips)
  for kind in ("v4", "v5p", "tpu7x"):
    for chips, shape in _SHAPES_3D.items():
      chip, name = CHIPS[kind], f"{kind}-{2 * chips}"
      devices = chips * chip.devices
      table[name] = Topology(name, f"{kind}:{shape}", chip, devices)
  for count in (1, 2, 4, 8):
    name = f"h100-{count}"
    table[name] = Topology(name, "", CHIPS["h100"], count)
  return table


TOPOLOGIES = _table()


def get(name: str) -> Topology:
  """The pod of that name.

  Raises:
    XpoError: no such pod; the nearest names are listed.
  """
  if name in TOPOLOGIES:
    return TOPOLOGIES[name]
  kind = name.split("-")[0]
  same = [n for n in TOPOLOGIES if n.split("-")[0] == kind]
  near = same or difflib.get_close_matches(name, TOPOLOGIES, 4, 0.3)
  offered = ", ".join(near or ("v5e-16", "v5p-128", "v6e-64"))
  raise usage_error(f"--topology={name!r} is no pod we know; among {offered}")


def prepare(topology: Topology) -> None:
  """Fetches the compiler; call before jax initialises anything."""
  if topology.platform == "tpu":
    prepare_libtpu()
  else:
    gpu.prepare()


def prepare_libtpu() -> None:
  """Fetches libtpu into its own folder and points jax's topologies at it.

  It is never installed beside jax: there every process would look for a TPU.
  Call before jax initialises anything.

  Raises:
    XpoError: (74) it cannot be fetched or unpacked.
  """
  folder = fetch.cache_folder() / "libtpu" / LIBTPU.split("==")[1]
  library = folder / "libtpu" / "libtpu.so"
  if not library.exists():
    _unpack(fetch.fetch(LIBTPU, LIBTPU_SHA256, binary=True), library)
  os.environ |= {
    "TPU_LIBRARY_PATH": str(library),
    # There is no machine to ask what it is.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
  }


def _unpack(wheel: Path, library: Path) -> None:
  library.parent.mkdir(parents=True, exist_ok=True)
  part = library.with_suffix(f".part{os.getpid()}")
  with zipfile.ZipFile(wheel) as z, z.open("libtpu/libtpu.so") as source:
    with open(part, "wb") as target:
      while block := source.read(1 << 20):
        target.write(block)
  part.replace(library)


def devices(topology: Topology):
  """The pod's devices, which can be compiled for and nothing else."""
  if topology.platform == "cuda":
    return gpu.devices(topology.devices)
  from jax.experimental import topologies  # looks for libtpu

  kind, chips = topology.name.split("-")
  os.environ["TPU_ACCELERATOR_TYPE"] = f"{kind}-{chips}".replace(
    "v5e-", "v5litepod-"
  )
  alone = {"chips_per_host_bounds": (1, 1, 1)} if topology.devices == 1 else {}
  return topologies.get_topology_desc(
    topology_name=topology.libtpu, platform="tpu", **alone
  ).devices
