"""Weights on all devices, which then share the prompts to sample from."""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from xpo_jax import parallel
from xpo_jax.models import model as lm
from xpo_jax.models.model import Model, Weights
from xpo_jax.rollout import requests, sampler
from xpo_jax.types import Array, PyTree, Samples

Mesh = jax.sharding.Mesh


def place(model: Model, params: PyTree) -> tuple[Model, PyTree, Mesh | None]:
  """The weights on the devices; no mesh where there is one device only.

  With several processes all of them must then sample alike.
  """
  plain = dataclasses.replace(model, trunk_blocks=0, lora=(0, 1.0))
  held = lm.compact(params, plain.dtype)
  if len(jax.devices()) == 1:
    return plain, jax.tree.map(jnp.asarray, held), None
  mesh = parallel.all_devices(plain.config)
  return plain, parallel.put_params(mesh, held, lm.specs(plain)), mesh


def draw(
  mesh: Mesh | None,
  model: Model,
  params: PyTree,
  ids: Sequence[np.ndarray],
  rows: np.ndarray,
  key: Array,
  how: sampler.Sampling,
  stops: np.ndarray | None = None,
) -> Samples:
  """`sampler.generate` for lists of ids, on the host.

  Args:
    mesh: of `place`; devices that are left without a prompt repeat the last.
    model: sizes.
    params: of `place`, or arrays on the host.
    ids: B prompts.
    rows: int32 [B] their numbers, which the noise follows.
    key: noise key.
    how: static settings.
    stops: of `stops.stop_table`.
  """
  empty = -len(ids) % mesh.size if mesh else 0
  tokens, lengths = requests.pad([*ids, *[ids[-1]] * empty])
  rows = np.concatenate([rows, np.repeat(rows[-1:], empty)]).astype(np.int32)
  generate = lambda *x: sampler.generate(
    model, Weights({}, params), *x[:2], key, how, x[2], stops=stops
  )
  if mesh is None:
    return jax.tree.map(np.asarray, generate(tokens, lengths, rows))
  with parallel.use(mesh):
    put = lambda x: parallel.put_rows(mesh, x)
    samples = generate(put(tokens), put(lengths), put(rows))
  return jax.tree.map(lambda x: parallel.to_host(x)[: len(ids)], samples)
