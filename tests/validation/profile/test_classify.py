from __future__ import annotations

import pytest

from windtunnel.validation.profile.classify import GROUPS, classify_kernel, classify_operator


@pytest.mark.parametrize(
    ("name", "ops", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT", (), "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", (), "gemm"),
        ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x3_tn", (), "gemm"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3>", (), "gemm"),
        ("Cijk_Ailk_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT256x256x64", (), "gemm"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", ("aten::mm",), "gemm"),
        ("fused_moe_kernel", (), "grouped_gemm"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64>>", (), "attention"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<>", (), "attention_backward"),
        ("void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<>>>", (), "attention"),
        ("void flash_fwd_splitkv_kernel<>", (), "attention_decode"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", (), "attention"),
        ("fmha_cutlassB_bf16_aligned_128x64_k128_sm80", (), "attention_backward"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64", (), "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_3_64x64", (), "attention_backward"),
        ("void vllm::paged_attention_v2_kernel<>", (), "attention_decode"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", (), "all_reduce"),
        ("ncclDevKernel_AllGather_RING_LL", ("Optimizer.step#AdamW.step",), "all_gather"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", (), "reduce_scatter"),
        ("ncclDevKernel_SendRecv", (), "send_recv"),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>", (), "all_reduce"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", (), "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", ("Optimizer.step#AdamW.step",), "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::silu_kernel>", ("aten::silu",), "activation"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", ("aten::mul",), "elementwise"),
        ("void at::native::reduce_kernel<512, 1, MeanOps>", ("aten::mean", "aten::rms_norm"), "norm"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", (), "elementwise"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", (), "norm"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_3", (), "elementwise"),
        ("triton_poi_fused_mul_silu_2", (), "activation"),
        ("void (anonymous namespace)::softmax_warp_forward<>", ("aten::_softmax",), "softmax"),
        ("void at::native::cunn_SoftMaxForward<>", ("aten::_log_softmax",), "cross_entropy"),
        ("Memcpy DtoD (Device -> Device)", ("aten::copy_", "aten::clone"), "copy"),
        ("Memset (Device)", (), "copy"),
        ("void vllm::rotary_embedding_kernel<__nv_bfloat16, true>", (), "rope"),
        ("void at::native::indexSelectLargeIndex<>", ("aten::index_select", "aten::embedding"), "embedding"),
        ("my_secret_kernel", (), "other"),
        ("my_secret_kernel", ("aten::rms_norm",), "norm"),
    ],
)
def test_kernels(name: str, ops: tuple[str, ...], kind: str) -> None:
    assert classify_kernel(name, ops) == kind


@pytest.mark.parametrize(
    ("ops", "wraps", "kind"),
    [
        (("aten::mm", "aten::linear"), False, "gemm"),
        (("aten::linear",), True, "host"),
        (("aten::t",), False, "host"),
        (("aten::mul", "aten::rms_norm"), False, "norm"),
        (("aten::mul", "MulBackward0"), False, "elementwise"),
        (("aten::copy_", "aten::clone"), False, "copy"),
        (("aten::_scaled_dot_product_flash_attention_for_cpu_backward",), True, "attention_backward"),
        (("aten::lerp_", "Optimizer.step#AdamW.step"), False, "optimizer"),
        (("autograd::engine::evaluate_function: SiluBackward0",), True, "host"),
        (("aten::silu_backward", "SiluBackward0"), False, "activation"),
        (("c10d::allreduce_",), False, "all_reduce"),
        (("mine::op",), True, "host"),
        (("mine::op",), False, "other"),
    ],
)
def test_operators(ops: tuple[str, ...], wraps: bool, kind: str) -> None:
    assert classify_operator(ops, wraps) == kind


def test_a_kind_is_in_one_group() -> None:
    kinds = [kind for group in GROUPS.values() for kind in group]
    assert len(kinds) == len(set(kinds))
