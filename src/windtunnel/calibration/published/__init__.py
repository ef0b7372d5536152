"""Readers of published measurements of kernels and collectives, which are not shipped: a folder by source.

The sources are k1_aiconfigurator (ai-dynamo/aiconfigurator 095f58a, Apache-2.0), k2_vidur (microsoft/vidur 7d47513,
MIT), k3_llmcompass (PrincetonUniversity/LLMCompass 2e015fd, BSD-3-Clause), k4_infersim_h20_h800 (alibaba/InferSim
f2293da, Apache-2.0), k5_frontier_h800_a800 (NetX-lab/Frontier a4b22df, MIT), k6_llmservingsim_kernels
(casys-kaist/LLMServingSim 5daddb2, MIT), s3_apex_plus (microsoft/apex_plus 8769096, MIT), s9_amd_sglang_deepep
(deepseek-ai/DeepEP, MIT), t5_vtrain (KAIST vTrain f8dda84, MIT) and h1_hardware (stas00/ml-engineering).
"""

from windtunnel.calibration.published.rows import Measured, operators
from windtunnel.calibration.published.sources import READERS, read_published

__all__ = ["READERS", "Measured", "operators", "read_published"]
