"""Reads a compiled program's text: loops, cycles and collectives.

XLA's own cost analysis counts the body of a loop once; here a body counts as
often as it runs, which is read from the loop's condition.
"""

import collections
from collections.abc import Iterator
import dataclasses
import re

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = ")
_CALLS = re.compile(r"\b(?:calls|to_apply|called_computations)=\{?%([\w.\-]+)")
_WHILE = re.compile(r"condition=%([\w.\-]+), body=%([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\dm\d\w*)?)\[([\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_GROUP_SIZE = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_GROUP_SHAPE = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_GROUP_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_UNTOLD = 2**62  # cycles that the compiler does not know are 2**63 - 1
KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_BITS = {"pred": 8}
# Their to_apply is a function of two scalars.
_REDUCERS = frozenset(
  "reduce reduce-window scatter sort map all-reduce all-reduce-start "
  "reduce-scatter select-and-scatter".split()
)


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  shape: str
  opcode: str
  rest: str  # operands and attributes


@dataclasses.dataclass(frozen=True)
class Collective:
  """One channel of a loop body (or of the entry), over all its trips."""

  kind: str
  bytes: int  # of the larger of operand and result, a device, once
  trips: int
  devices: int  # that take part

  @property
  def moved(self) -> float:
    """Bytes a device sends in all trips, on a ring."""
    share = (self.devices - 1) / max(self.devices, 1)
    if self.kind == "collective-permute":
      share = 1.0
    rounds = 2 if self.kind == "all-reduce" else 1
    return rounds * share * self.bytes * self.trips


@dataclasses.dataclass(frozen=True)
class Module:
  """A program's computations, by name, and which one is the entry."""

  computations: dict[str, list[Instruction]]
  entry: str


def parse(text: str) -> Module:
  """The text of a compiled program; other lines are skipped."""
  computations, entry, current = {}, "", None
  for line in text.splitlines():
    header = _HEADER.match(line)
    if header and not line.startswith(" "):
      current = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif line == "}":
      current = None
    elif current is not None and (found := _instruction(line)):
      current.append(found)
  return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
  name = _NAME.match(line)
  if not name:
    return None
  rest = line[name.end() :]
  end = rest.find(" ")
  if rest.startswith("("):
    depth = 0
    for end, letter in enumerate(rest):
      depth += (letter == "(") - (letter == ")")
      if depth == 0:
        end += 1
        break
  shape, rest = rest[:end], rest[end:].lstrip()
  opcode, _, rest = rest.partition("(")
  return Instruction(name[1], shape, opcode, rest)


def size(shape: str) -> int:
  """Bytes of a shape; a tuple is the sum of its arrays."""
  total = 0
  for kind, dims in _ARRAY.findall(shape):
    digits = re.search(r"\d+", kind)
    bits = _BITS.get(kind) or int(digits[0])
    count = 1
    for n in filter(None, dims.split(",")):
      count *= int(n)
    total += count * bits // 8
  return total


def runs(module: Module) -> Iterator[tuple[str, int, str]]:
  """(computation, how often it runs, the loop body it belongs to)."""
  todo = [(module.entry, 1, module.entry)]
  while todo:
    name, times, scope = todo.pop()
    yield name, times, scope
    for op in module.computations.get(name, ()):
      loop = _WHILE.search(op.rest) if op.opcode == "while" else None
      if loop:
        trips = trip_count(module, op, loop[1])
        todo.append((loop[2], times * trips, loop[2]))
      elif op.opcode not in _REDUCERS:
        todo += [(n, times, scope) for n in _CALLS.findall(op.rest)]


def trip_count(module: Module, loop: Instruction, condition: str) -> int:
  """Trips of a counted loop; 1 where its text does not say."""
  known = _TRIPS.search(loop.rest)
  if known:
    return int(known[1])
  return _limit(module, condition) or 1


def _limit(module: Module, computation: str) -> int:
  """The constant that a counter is compared with, or 0 if none is seen."""
  ops = module.computations.get(computation, ())
  constants = {
    op.name: int(op.rest.split(")")[0])
    for op in ops
    if op.opcode == "constant" and re.match(r"\d+\)", op.rest)
  }
  for op in ops:
    if op.opcode == "compare" and "direction=LT" in op.rest:
      for name in re.findall(r"%([\w.\-]+)", op.rest.split(")")[0]):
        if name in constants:
          return constants[name]
  inner = [_limit(module, n) for op in ops for n in _CALLS.findall(op.rest)]
  return max(inner, default=0)


def cycles(module: Module) -> tuple[int, list[tuple[int, int, str]]]:
  """(cycles of all trips, [(cycles, trips, what)] most expensive first)."""
  found, total = [], 0
  for name, times, _ in runs(module):
    for op in module.computations.get(name, ()):
      match = _CYCLES.search(op.rest)
      if match and int(match[1]) < _UNTOLD:
        cost = int(match[1]) * times
        total += cost
        found.append((cost, times, describe(op)))
  return total, sorted(found, reverse=True)


def describe(op: Instruction) -> str:
  """Where in the model an instruction comes from, and its result's shape."""
  name = _OP_NAME.search(op.rest)
  arrays = _ARRAY.findall(op.shape)
  shape = f"{arrays[0][0]}[{arrays[0][1]}]" if arrays else ""
  path = name[1] if name else op.name
  for noise in ("jit(step)/", "while/body/", "closed_call/"):
    path = path.replace(noise, "")
  return f"{path} {shape}"


def collectives(module: Module) -> list[Collective]:
  """Every distinct channel of every loop body, over its trips."""
  seen = {}
  for name, times, scope in runs(module):
    for op in module.computations.get(name, ()):
      kind = op.opcode.removesuffix("-start")
      channel = _CHANNEL.search(op.rest)
      if kind not in KINDS or op.opcode.endswith("-done") or not channel:
        continue
      # An asynchronous copy of one channel is printed in several fusions.
      seen.setdefault(
        (scope, channel[1]),
        Collective(kind, _largest(op), times, _devices(op.rest)),
      )
  return list(seen.values())


def _largest(op: Instruction) -> int:
  """Of a start's (operand, result) the larger one; else the result."""
  if op.opcode.endswith("-start") and op.shape.startswith("("):
    sizes = [size(f"{t}[{d}]") for t, d in _ARRAY.findall(op.shape)]
    return max(sizes, default=0)
  if op.opcode == "reduce-scatter":
    return size(op.shape) * _devices(op.rest)
  return size(op.shape)


def _devices(text: str) -> int:
  """Devices in a group; 2 for a permutation."""
  if match := _GROUP_MESH.search(text):
    sizes = dict(part.split("=") for part in match[1].split(","))
    sizes = {k.strip("' "): int(v) for k, v in sizes.items()}
    count = 1
    for axis in match[2].split(","):
      count *= sizes.get(axis.strip("' "), 1)
    return count
  if match := _GROUP_SHAPE.search(text):
    return int(match[2])
  if match := _GROUP_SIZE.search(text):
    return len(match[1].split(","))
  return 2


def totals(found: list[Collective]) -> dict[str, tuple[int, float, float]]:
  """kind -> (distinct collectives, bytes x trips, bytes a device sends)."""
  table = collections.defaultdict(lambda: (0, 0.0, 0.0))
  for c in found:
    count, amount, moved = table[c.kind]
    table[c.kind] = (count + 1, amount + c.bytes * c.trips, moved + c.moved)
  return dict(table)
