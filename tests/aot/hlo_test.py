"""Loops, cycles and collectives read from a text of our own."""

import pytest

from xpo_jax.aot import hlo

TEXT = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[8,4]) -> bf16[8,16] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.2 = bf16[8,16]{1,0} all-gather(%p), channel_id=7, \
replica_groups={{0,1,2,3}}, dimensions={1}
}

%inner_cond (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %other = s32[] constant(2147483647)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%inner_body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]) parameter(0)
  %hop = (f32[4]{0}, f32[4]{0}, u32[]) collective-permute-start(%t), \
channel_id=9, source_target_pairs={{0,1},{1,0}}
  %work = f32[4]{0} fusion(%t), kind=kOutput, calls=%fused, \
metadata={op_name="jit(step)/mlp/dot"}, backend_config={"window_config":\
{"estimated_cycles":"10"}}
  %done = f32[4]{0} collective-permute-done(%hop)
  ROOT %out = (s32[], f32[4]) tuple(%done)
}

%outer_cond (s: (s32[])) -> pred[] {
  ROOT %never = pred[] constant(false)
}

%outer_body (u: (s32[])) -> (s32[]) {
  %u = (s32[]) parameter(0)
  %twice = bf16[8,16]{1,0} fusion(%u), calls=%fused
  %again = bf16[8,16]{1,0} fusion(%u), calls=%fused
  ROOT %loop = (s32[], f32[4]) while(%u), condition=%inner_cond, \
body=%inner_body
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %all = f32[100]{0} all-reduce(%x), channel_id=1, \
replica_groups=[2,4]<=[8], to_apply=%add
  %unknown = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
  %some = f32[10]{0} reduce-scatter(%x), channel_id=2, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add
  %big = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  ROOT %end = (s32[]) while(%x), condition=%outer_cond, body=%outer_body, \
backend_config={"known_trip_count":{"n":"3"}}
}
"""


@pytest.fixture(scope="module")
def module():
  return hlo.parse(TEXT.replace("\\\n", ""))


def test_a_body_runs_as_often_as_its_loops(module):
  assert module.entry == "main"
  times = {(name, scope): n for name, n, scope in hlo.runs(module)}
  assert times["outer_body", "outer_body"] == 3
  assert times["inner_body", "inner_body"] == 15
  assert times["fused", "main"] == 1 and times["fused", "outer_body"] == 3
  # The scalar function of a reduction is no work of its own.
  assert ("add", "main") not in times


def test_cycles_are_of_all_trips(module):
  total, found = hlo.cycles(module)
  assert total == 1000 + 15 * 10
  assert found[0][:2] == (1000, 1)
  assert found[1] == (150, 15, "mlp/dot f32[4]")


@pytest.mark.parametrize(
  "shape, size",
  [
    ("f32[4]{0:T(128)}", 16),
    ("bf16[8,16]{1,0}", 256),
    ("(f32[2], pred[3], s8[])", 8 + 3 + 1),
    ("f8e4m3fn[16]", 16),
  ],
)
def test_bytes_of_a_shape(shape, size):
  assert hlo.size(shape) == size


def test_a_channel_counts_once_in_each_loop(module):
  """Channel 7 is printed three times in the outer body, once in the others."""
  table = hlo.totals(hlo.collectives(module))
  gathered = 8 * 16 * 2
  count, size, sent = table["all-gather"]
  assert count == 3  # entry, outer body, inner body
  assert size == gathered * (1 + 3 + 15)
  assert sent == pytest.approx(size * 3 / 4)
  # A ring of 4 reduces and then gathers: 2 x 3/4 of 400 bytes.
  assert table["all-reduce"] == (1, 400, 600)
  # 10 numbers arrive at each of 4.
  assert table["reduce-scatter"] == (1, 160, 120)
  assert table["collective-permute"] == (1, 16 * 15, 16 * 15)
