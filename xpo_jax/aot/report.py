"""`xpo compile`: what a step needs on a pod, as tables."""

import jax

from xpo_jax import progress
from xpo_jax.aot import abstract, estimate, topologies
from xpo_jax.aot.estimate import Estimate
from xpo_jax.errors import XpoError

EXPENSIVE = 10
# How the reference is had, in the table of docs/pods.md.
MODES = {
  "live reference": {"reference.mode": "live", "lora.rank": 0},
  "cached reference": {"reference.mode": "cached", "lora.rank": 0},
  "LoRA, rank 16": {"reference.mode": "live", "lora.rank": 16},
}
HEADER = (
  "| pod | prompts | | GiB a device | of | TFLOP | matrix s | cycles s | "
  "links s | predicted MFU |\n|---|---|---|---|---|---|---|---|---|---|"
)


def run(config, topology: str, table: str = "", hlo: str = "") -> None:
  """Compiles the config's step for each pod and prints what it takes.

  Args:
    config: a whole tree.
    topology: pods, joined by commas.
    table: "yes" prints one markdown row for each pod and each of MODES instead.
    hlo: file for the last compiled program's text; "" for none.

  Raises:
    XpoError: a pod or config that cannot be, or a step that does not fit.
  """
  pods = [topologies.get(name) for name in topology.split(",")]
  for pod in pods:
    topologies.prepare(pod)
  jax.config.update("jax_platforms", "cpu")  # no pod is here
  if table:
    print(HEADER)
    for pod in pods:
      for mode, changes in MODES.items():
        print(_row(config, pod, mode, changes), flush=True)
    return
  for pod in pods:
    found = compile_for(config, pod)
    show(found)
    if hlo:
      with open(hlo, "w", encoding="utf-8") as f:
        f.write(found.text)


def compile_for(config, pod: topologies.Topology) -> Estimate:
  program = abstract.program(config, topologies.devices(pod))
  return estimate.compile_step(program, pod)


def _row(config, pod, mode, changes) -> str:
  chosen = config.copy_and_resolve_references().unlock()
  chosen.update_from_flattened_dict(changes)
  start = f"| {pod.name} | {chosen.batch.prompts} | {mode} |"
  try:
    e = compile_for(chosen.lock(), pod)
  except XpoError as refused:
    return f"{start} {refused} | | | | | | |"
  return (
    f"{start} {e.needed:.2f} | {pod.chip.hbm} | {e.flops / 1e12:.0f} | "
    f"{e.matrix_seconds:.2f} | "
    f"{_or_none(e.cycles, f'{e.cycle_seconds:.2f}')} | {e.link_seconds:.2f} | "
    f"{_or_none(e.cycles, f'{e.mfu:.0%}')} |"
  )


def _or_none(known, text: str) -> str:
  """The CUDA compiler tells no cycles."""
  return text if known else "not told"


def show(e: Estimate) -> None:
  """Prints memory, traffic, time and the costliest instructions."""
  pod = e.topology
  rows = [(name, f"{size:.2f}") for name, size in e.memory.items()]
  rows.append(("needed of", f"{e.needed:.2f} / {pod.chip.hbm}"))
  title = f"{pod.name} ({pod.devices} devices): memory"
  progress.print_table(title, ("GiB a device", ""), rows)
  progress.print_table(
    "collectives of a step, by kind",
    ("", "distinct", "GB", "GB sent by a device"),
    [
      (kind, count, f"{size:.2f}", f"{sent:.2f}")
      for kind, (count, size, sent) in sorted(e.traffic.items())
    ],
  )
  progress.print_table(
    "time of a step: estimates, nothing was run",
    ("bound", "seconds"),
    [
      ("matrix products at peak", f"{e.matrix_seconds:.3f}"),
      ("the compiler's cycles", _or_none(e.cycles, f"{e.cycle_seconds:.3f}")),
      ("collectives at link speed", f"{e.link_seconds:.3f}"),
      ("TFLOP a device", f"{e.flops / 1e12:.1f}"),
      ("of them useful (6 N, 2 N reference)", f"{e.model_flops / 1e12:.1f}"),
      ("predicted MFU", _or_none(e.cycles, f"{e.mfu:.0%}")),
    ],
  )
  if not e.expensive:
    return
  progress.print_table(
    "most expensive instructions",
    ("what", "trips", "share of cycles"),
    [
      (what, trips, f"{cost / max(e.cycles, 1):.1%}")
      for cost, trips, what in e.expensive[:EXPENSIVE]
    ],
  )
