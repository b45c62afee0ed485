"""Published models' shapes, from their config.json on the Hub, and the same structures in small.

The number of parameters as published stands beside each shape, so that a test can hold one against the other; where
only a rounded figure was to hand, it ends in zeros.
"""

from __future__ import annotations

from typing import NamedTuple

from scripts.architectures.decoder import Decoder
from scripts.architectures.gemma3n import Gemma3n
from scripts.architectures.gemma4 import Gemma4
from scripts.architectures.hybrid import DeltaNet, Lfm2
from scripts.architectures.mla import Latent
from scripts.architectures.model import Model, Shape
from scripts.architectures.recurrent import FalconH1, GraniteHybrid, Mamba, Mamba2, Mixer


class Published(NamedTuple):
    """A shape, and how many parameters the model's publisher counts in its language model."""

    shape: Shape
    n_parameters: int


def small(name: str) -> Model:
    """Return a model like MODELS[name] in structure, with every kind of its layers, of a few MB."""
    return PUBLISHED[name].shape.small().model()


_GEMMA3: tuple[tuple[str, float], ...] = (("rope.freq_base_swa", 10000.0),)
_GPT_OSS = (
    ("rope.scaling.type", "yarn"),
    ("rope.scaling.factor", 32.0),
    ("rope.scaling.original_context_length", 4096),
)
_GLM = (
    ("rope.dimension_count", 64),
    ("expert_gating_func", 2),
    ("expert_weights_scale", 1.0),
    ("expert_weights_norm", True),
)
_DEEPSEEK = (
    ("rope.scaling.type", "yarn"),
    ("rope.scaling.factor", 40.0),
    ("rope.scaling.original_context_length", 4096),
)
_DEEPSEEK_V2 = (*_DEEPSEEK, ("rope.scaling.yarn_log_multiplier", 0.0707), ("expert_weights_scale", 1.0))
_DEEPSEEK_V3 = (
    *_DEEPSEEK,
    ("rope.scaling.yarn_log_multiplier", 0.1),
    ("expert_weights_scale", 2.5),
    ("expert_weights_norm", True),
    ("expert_gating_func", 2),
    ("expert_group_count", 8),
    ("expert_group_used_count", 4),
)
_GEMMA2 = (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))

DECODERS: dict[str, Published] = {
    # meta-llama/Llama-3.2-1B, Llama-3.1-8B, Llama-3.1-70B
    "llama-3.2-1b": Published(
        Decoder("llama", 16, 2048, 8192, 32, 8, 64, 128256, tied=True, rope_base=5e5, rope_factors=True), 1_235_814_400
    ),
    "llama-3.1-8b": Published(
        Decoder("llama", 32, 4096, 14336, 32, 8, 128, 128256, rope_base=5e5, rope_factors=True), 8_030_261_248
    ),
    "llama-3.1-70b": Published(
        Decoder("llama", 80, 8192, 28672, 64, 8, 128, 128256, rope_base=5e5, rope_factors=True), 70_553_706_496
    ),
    # mistralai/Mixtral-8x7B-v0.1
    "mixtral-8x7b": Published(
        Decoder("llama", 32, 4096, 14336, 32, 8, 128, 32000, 32768, rope_base=1e6, n_expert=8, n_expert_used=2),
        46_702_792_704,
    ),
    # Qwen/Qwen2.5-0.5B, Qwen3-0.6B, Qwen3-8B, Qwen3-32B, Qwen3-30B-A3B
    "qwen2.5-0.5b": Published(
        Decoder("qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, tied=True, rope_base=1e6), 494_032_768
    ),
    "qwen3-0.6b": Published(
        Decoder("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, 40960, tied=True, rope_base=1e6), 596_049_920
    ),
    "qwen3-8b": Published(Decoder("qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 40960, rope_base=1e6), 8_190_735_360),
    "qwen3-32b": Published(Decoder("qwen3", 64, 5120, 25600, 64, 8, 128, 151936, 40960, rope_base=1e6), 32_762_123_264),
    "qwen3-30b-a3b": Published(
        Decoder(
            *("qwen3moe", 48, 2048, 6144, 32, 4, 128, 151936, 40960),
            rope_base=1e6,
            n_expert=128,
            n_expert_used=8,
            n_ff_exp=768,
        ),
        30_532_122_624,
    ),
    # google/gemma-2-2b, gemma-2-9b, gemma-3-1b-it, gemma-3-27b-it (its language model)
    "gemma-2-2b": Published(
        Decoder("gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 8192, tied=True, n_swa=4096, swa_pattern=2, extra=_GEMMA2),
        2_614_341_888,
    ),
    "gemma-2-9b": Published(
        Decoder(
            "gemma2", 42, 3584, 14336, 16, 8, 256, 256000, 8192, tied=True, n_swa=4096, swa_pattern=2, extra=_GEMMA2
        ),
        9_241_705_984,
    ),
    "gemma-3-1b": Published(
        Decoder(
            *("gemma3", 26, 1152, 6912, 4, 1, 256, 262144, 32768),
            tied=True,
            rope_base=1e6,
            n_swa=512,
            swa_pattern=6,
            extra=_GEMMA3,
        ),
        999_885_952,
    ),
    "gemma-3-27b": Published(
        Decoder(
            *("gemma3", 62, 5376, 21504, 32, 16, 128, 262208),
            tied=True,
            rope_base=1e6,
            n_swa=1024,
            swa_pattern=6,
            extra=_GEMMA3,
        ),
        27_009_346_304,
    ),
    # microsoft/Phi-3-mini-4k-instruct (llama.cpp reads its window and does not use it), microsoft/phi-4
    "phi-3-mini": Published(Decoder("phi3", 32, 3072, 8192, 32, 32, 96, 32064, 4096, n_swa=2047), 3_821_079_552),
    "phi-4": Published(Decoder("phi3", 40, 5120, 17920, 40, 10, 128, 100352, 16384, rope_base=25e4), 14_659_507_200),
    # openai/gpt-oss-20b
    "gpt-oss-20b": Published(
        Decoder(
            *("gpt-oss", 24, 2880, 2880, 64, 8, 64, 201088),
            rope_base=15e4,
            n_swa=128,
            swa_pattern=2,
            n_expert=32,
            n_expert_used=4,
            n_ff_exp=2880,
            extra=_GPT_OSS,
        ),
        20_914_757_184,
    ),
    # CohereForAI/c4ai-command-r-v01, c4ai-command-r7b-12-2024
    "command-r-35b": Published(
        Decoder(
            "command-r",
            40,
            8192,
            22528,
            64,
            64,
            128,
            256000,
            tied=True,
            rope_base=8e6,
            extra=(("logit_scale", 0.0625),),
        ),
        34_980_831_232,
    ),
    "command-r7b": Published(
        Decoder(
            *("cohere2", 32, 4096, 14336, 32, 8, 128, 256000, 8192),
            tied=True,
            rope_base=5e4,
            n_swa=4096,
            swa_pattern=4,
            extra=(("logit_scale", 0.25),),
        ),
        8_030_000_000,
    ),
    # allenai/OLMoE-1B-7B-0924
    "olmoe-1b-7b": Published(
        Decoder("olmoe", 16, 2048, 1024, 16, 16, 128, 50304, 4096, n_expert=64, n_expert_used=8), 6_919_161_856
    ),
    # zai-org/GLM-4.5-Air: its 47th layer predicts the token after the next
    "glm-4.5-air": Published(
        Decoder(
            *("glm4moe", 47, 4096, 10944, 96, 8, 128, 151552),
            rope_base=1e6,
            n_expert=128,
            n_expert_used=8,
            n_ff_exp=1408,
            n_expert_shared=1,
            n_layer_dense=1,
            n_nextn=1,
            extra=_GLM,
        ),
        110_468_824_832,
    ),
}

LATENT: dict[str, Published] = {
    # deepseek-ai/DeepSeek-V2-Lite, DeepSeek-V2, DeepSeek-V3 (without the layer that predicts further tokens)
    "deepseek-v2-lite": Published(
        Latent(27, 1, 2048, 10944, 16, 102400, 64, 6, 2, 1408, None, extra=_DEEPSEEK_V2), 15_706_484_224
    ),
    "deepseek-v2": Published(
        Latent(60, 1, 5120, 12288, 128, 102400, 160, 6, 2, 1536, 1536, extra=_DEEPSEEK_V2), 235_741_434_880
    ),
    "deepseek-v3": Published(
        Latent(61, 3, 7168, 18432, 128, 129280, 256, 8, 1, 2048, 1536, probs_bias=True, extra=_DEEPSEEK_V3),
        671_026_419_200,
    ),
}

STATEFUL: dict[str, Published] = {
    # state-spaces/mamba-130m-hf, mamba-2.8b-hf, mamba2-2.7b (vocabularies as padded there)
    "mamba-130m": Published(Mamba(24, 768, 50280, 48), 129_135_360),
    "mamba-2.8b": Published(Mamba(64, 2560, 50280, 160), 2_768_345_600),
    "mamba2-2.7b": Published(Mamba2(64, 2560, 50288, Mixer(80, 128)), 2_702_599_680),
    # tiiuae/Falcon-H1-0.5B-Base, Falcon-H1-1.5B-Base (the latter's n_ff follows from its number of parameters)
    "falcon-h1-0.5b": Published(
        FalconH1(36, 1024, 2048, 8, 2, 64, 32784, Mixer(24, 128, norm=False), 16384), 521_411_104
    ),
    "falcon-h1-1.5b": Published(
        FalconH1(24, 2048, 4608, 8, 2, 128, 65537, Mixer(48, 256, norm=False), 131072), 1_550_000_000
    ),
    # ibm-granite/granite-4.0-h-tiny
    "granite-4.0-h-tiny": Published(
        GraniteHybrid(40, (5, 15, 25, 35), 1536, 512, 1024, 12, 4, 100352, 64, 6, Mixer(48, 128)), 6_939_037_248
    ),
    # Qwen/Qwen3-Next-80B-A3B-Instruct, Qwen3.5-4B (without the layer that predicts further tokens)
    "qwen3-next-80b-a3b": Published(
        DeltaNet("qwen3next", 48, 2048, 5120, 16, 2, 256, 151936, 16, 32, n_expert=512, n_expert_used=10, n_ff_exp=512),
        79_674_391_296,
    ),
    "qwen3.5-4b": Published(DeltaNet("qwen35", 32, 2560, 9216, 16, 4, 256, 248320, 16, 32, tied=True), 4_210_000_000),
    # LiquidAI/LFM2-1.2B
    "lfm2-1.2b": Published(Lfm2(16, (2, 5, 8, 10, 12, 14), 2048, 8192, 32, 8, 65536), 1_170_340_608),
    # google/gemma-3n-E2B-it (its language model)
    "gemma-3n-e2b": Published(Gemma3n(30, 2048, 8192, 8, 2, 262144), 4_460_000_000),
    # google/gemma-4-E2B-it (its language model)
    "gemma-4-e2b": Published(Gemma4(35, 20, 1536, 6144, 8, 1, 262144), 4_650_000_000),
}

PUBLISHED: dict[str, Published] = DECODERS | LATENT | STATEFUL


MODELS: dict[str, Model] = {name: published.shape.model() for name, published in PUBLISHED.items()}
