"""Collectives are counted in the text of compiled programs."""

from benchmarks.hlo_collectives import array_bytes, collectives

# Excerpt of a training step compiled by libtpu.
PROGRAM = """\
%fused_computation.1 (param_0.1: bf16[2,320]) -> bf16[32,320] {
  %all-gather.1 = bf16[32,320]{1,0:T(8,128)(2,1)} all-gather(%param_0.1), x={chain_id="46"}
}
%async_collective_fusion.2 (param_0.2: bf16[2,320]) -> bf16[32,320] {
  %all-gather.2 = bf16[32,320]{1,0:T(8,128)(2,1)} all-gather(%param_0.2), x={chain_id="46"}
}
%all-reduce-scatter.8 (input_0: bf16[32,320]) -> bf16[2,320] {
  %all-reduce.3 = bf16[32,320]{1,0:T(8,128)} all-reduce(%input_0), to_apply=%add
}
ENTRY %main (p: f32[]) -> f32[] {
  %all-gather.4 = bf16[32,320]{1,0} all-gather(%p.1), channel_id=1
  %all-reduce.5 = (f32[]{:T(128)}, s32[4,2]{1,0}) all-reduce(%p.2, %p.3), to_apply=%add
  %collective-permute-start.6 = (u8[8]{0}, u8[8]{0}, u32[]{:S(2)}) collective-permute-start(%p.4)
  %collective-permute-done.6 = u8[8]{0} collective-permute-done(%collective-permute-start.6)
  ROOT %add.7 = f32[]{:T(128)} add(%p.5, %all-reduce.5)
}
"""
# A loop over ten layers with an inner loop of two iterations.
LOOPS = """\
%inner.1 (p: (f32[8])) -> (f32[8]) {
  %all-gather.1 = f32[8]{0} all-gather(%p.1), channel_id=1
}
%async_collective_fusion.5 (p: f32[2]) -> f32[2] {
  %all-gather.5 = f32[2]{0} all-gather(%p.1), x={chain_id="7"}
}
%outer.2 (p: (f32[8])) -> (f32[8]) {
  %all-gather.2 = f32[4]{0} all-gather(%p.1), channel_id=2
  %fusion.6 = f32[2]{0} fusion(%p.2), kind=kOutput, calls=%async_collective_fusion.5
  %while.3 = (f32[8]) while(%t), body=%inner.1, backend_config={"known_trip_count":{"n":"2"}}
}
ENTRY %main (p: f32[]) -> f32[] {
  %while.4 = (f32[8]) while(%t), body=%outer.2, backend_config={"known_trip_count":{"n":"10"}}
}
"""


def test_each_collective_counts_once():
    size = 32 * 320 * 2
    assert collectives(PROGRAM) == {
        "all-gather": {"count": 2, "bytes": 2 * size, "overlapped": 1},
        "reduce-scatter": {"count": 1, "bytes": size, "overlapped": 0},
        "all-reduce": {"count": 1, "bytes": 36, "overlapped": 0},
        "collective-permute": {"count": 1, "bytes": 8, "overlapped": 0},
    }


def test_starts_count_their_results_only():
    program = """\
ENTRY %main (p: f32[]) -> f32[] {
  %all-gather-start.1 = (bf16[2,8]{1,0}, bf16[4,8]{1,0}) all-gather-start(%p.1)
  %all-gather-start.2 = ((f32[2]{0}, f32[3]{0}), (f32[4]{0}, f32[6]{0})) all-gather-start(%p.2, %p)
  %all-reduce-start.3 = (f32[5]{0}, f32[7]{0}) all-reduce-start(%p.3, %p.4)
}
"""
    found = collectives(program)
    assert found["all-gather"]["bytes"] == 64 + 40
    assert found["all-reduce"]["bytes"] == 48


def test_collectives_in_loops_count_each_iteration():
    (found,) = collectives(LOOPS).values()
    expected = {"count": 10 + 20 + 10, "bytes": 10 * 16 + 20 * 32 + 10 * 8, "overlapped": 10}
    assert found == expected


def test_loops_of_libtpu_count_up_to_a_constant():
    program = """\
%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-gather.1 = f32[8]{0} all-gather(%p.1), channel_id=1
}
%condition.2 (p: (s32[], f32[8])) -> pred[] {
  %constant.3 = s32[]{:T(128)} constant(10), metadata={op_name="jit(f)"}
  ROOT %lt.4 = pred[]{:T(512)} compare(%get-tuple-element.5, %constant.3), direction=LT
}
ENTRY %main (p: f32[]) -> f32[] {
  %while.6 = (s32[], f32[8]) while(%t), condition=%condition.2, body=%body.1, metadata={}
}
"""
    assert collectives(program)["all-gather"]["count"] == 10


def test_bytes_of_shapes():
    assert array_bytes("pred[3]{0}") == 3
    assert array_bytes("(bf16[2,3]{1,0}, f32[], f8e4m3fn[10])") == 12 + 4 + 10
