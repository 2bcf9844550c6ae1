"""Kernels of a profile are summed by kind."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernels import kernels, summary


def test_kernels_are_summed_by_kind_and_name():
    events = [
        ("nvjet_sm90_tst_128x128_64x6_2x1_v_bz_bias_NNT", 3e6),
        ("gemm_fusion_dot_335", 1e6),
        ("gemm_fusion_dot_340", 2e6),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", 4e6),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32", 5e6),
        ("wrapped_transpose_29", 1e6),
        ("loop_multiply_fusion_71", 1e6),
        ("loop_convert_fusion_16", 1e6),
    ]
    found = summary(events, calls=2)
    assert found["all"] == {"milliseconds": 9, "launches": 4}
    assert {kind: each["milliseconds"] for kind, each in found["kinds"].items()} == {
        "attention": 2,
        "convolutions": 2.5,
        "matrix products": 3,
        "copies, slices, transposes": 0.5,
        "norms, activations, sums": 1,
    }
    assert found["most"]["gemm_fusion_dot"] == {"milliseconds": 1.5, "launches": 1}


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU has kernels")
def test_returns_none_without_a_gpu():
    double = jax.jit(lambda x: 2 * x)
    assert kernels(lambda: double(jnp.ones(3)).block_until_ready(), "double", 1) is None
