"""file_name: what the names of real files say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.file_name import base_of_repo, parse_file_name

GOLDEN = Path(__file__).parent / "golden" / "names"
FILES = [line.split("\t") for line in (GOLDEN / "files.txt").read_text("utf-8").splitlines()]
READ = (GOLDEN / "read.txt").read_text("utf-8").splitlines()


def read(path: str) -> str:
    """What a path says: kind, with `?` where its size decides, label, part and the model's name."""
    name = parse_file_name(path)
    doubt = "" if name.is_sure else "?"
    return f"{name.kind}{doubt}\t{name.label or '-'}\t{name.no}/{name.count}\t{name.base}"


def test_1106_names_of_public_repositories_are_read_as_they_were_when_a_person_looked() -> None:
    """After a change, read.txt is what `read` says of each path in files.txt; look at every line that differs."""
    wrong = [(path, expected) for (_, path), expected in zip(FILES, READ, strict=True) if read(path) != expected]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "model\tQ4_K_M\t1/1\tqwen3-8b"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "model\tQ4_K_M\t1/2\tqwen2-5-7b-instruct"),
        ("qwen2.5-7b-instruct-fp16-00004-of-00004.gguf", "model\tF16\t4/4\tqwen2-5-7b-instruct"),
        ("qwen1_5-0_5b-chat-q8_0.gguf", "model\tQ8_0\t1/1\tqwen1-5-0-5b-chat"),
        ("tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", "model\tQ4_K_M\t1/1\ttinyllama-1-1b-chat-v1-0"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "model\tQ4\t1/1\tphi-3-mini-4k-instruct"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "model\tF16\t1/1\tphi-3-mini-4k-instruct"),
        ("phi-4-Q4_K.gguf", "model\tQ4_K\t1/1\tphi-4"),
        ("gemma-3-4b-it-q4_0.gguf", "model\tQ4_0\t1/1\tgemma-3-4b-it"),
        ("mmproj-model-f16-4B.gguf", "mmproj\tF16\t1/1\tmmproj-model-4b"),
        ("Cydonia-24B.i1-IQ2_XXS.gguf", "model\tIQ2_XXS\t1/1\tcydonia-24b"),
        ("Cydonia-24B.imatrix.gguf", "imatrix?\t-\t1/1\tcydonia-24b"),
        ("imatrix.dat", "imatrix\t-\t1/1\t"),
        ("imatrix_unsloth.gguf_file", "imatrix\t-\t1/1\t"),
        ("Kimi-K2-Instruct-UD-TQ1_0-00003-of-00005.gguf", "model\tUD-TQ1_0\t3/5\tkimi-k2-instruct"),
        ("BF16/GLM-4.6-BF16-00002-of-00015.gguf", "model\tBF16\t2/15\tglm-4-6"),
        ("Q4_K_M/model-00001-of-00002.gguf", "model\tQ4_K_M\t1/2\tmodel"),
        ("DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf", "model\tUD-IQ1_S\t1/3\tdeepseek-r1"),
        ("gpt-oss-20b-MXFP4.gguf", "model\tMXFP4\t1/1\tgpt-oss-20b"),
        ("Qwen3-30B-A3B-MXFP4_MOE_BF16.gguf", "model\tMXFP4_MOE_BF16\t1/1\tqwen3-30b-a3b"),
        ("Q8_0.gguf", "model\tQ8_0\t1/1\t"),
        ("unsloth.Q5_K_M.gguf", "model\tQ5_K_M\t1/1\tunsloth"),
        ("ggml-model-i2_s.gguf", "model\tI2_S\t1/1\tggml-model"),
        ("smol-IQ3_KS.gguf", "model\tIQ3_KS\t1/1\tsmol"),
        ("model.gguf", "model\t-\t1/1\tmodel"),
        ("Llama-3-8B-LoRA-merged-Q4_K_M.gguf", "lora?\tQ4_K_M\t1/1\tllama-3-8b-lora-merged"),
        ("Ministral-3-8B-Instruct-2512-BF16-mmproj.gguf", "mmproj\tBF16\t1/1\tministral-3-8b-instruct-2512-mmproj"),
        ("Qwen3-4B-eagle3-Q8_0.gguf", "draft\tQ8_0\t1/1\tqwen3-4b-eagle3"),
        ("ggml-vocab-llama-bpe.gguf", "vocab\t-\t1/1\tggml-vocab-llama-bpe"),
        ("llama-2-70b.Q8_0.gguf-split-a", "piece\t-\t1/1\t"),
        ("falcon-180b.Q8_0.gguf.part2of3", "piece\t-\t1/1\t"),
        ("X-MXFP4.gguf-chunk-001-of-018.gguf", "piece\t-\t1/1\t"),
        ("Llama-3.3-70B.Q6_K.gguf-00001-of-00006.gguf", "model\tQ6_K\t1/6\tllama-3-3-70b"),
        ("Qwen3.8-27B-IQ4_XS_4BPW.gguf", "model\tIQ4_XS\t1/1\tqwen3-8-27b"),
        ("Q4_K_M/Q4_K_M-00001-of-00001.gguf", "model\tQ4_K_M\t1/1\t"),
        ("dspark/Q8_0.gguf", "draft?\tQ8_0\t1/1\t"),
        ("gemma-4-E2B-it-assistant.Q8_0.gguf", "draft?\tQ8_0\t1/1\tgemma-4-e2b-it-assistant"),
        ("x.gguf.part_ab", "piece\t-\t1/1\t"),
        ("x-00003-of-00002.gguf", "model\t-\t1/1\tx-00003-of-00002"),
        ("x-00000-of-00002.gguf", "model\t-\t1/1\tx-00000-of-00002"),
        ("README.md", "other\t-\t1/1\t"),
        ("x.gguf.json", "other\t-\t1/1\t"),
        ("x.safetensors", "other\t-\t1/1\t"),
    ],
)
def test_names_as_publishers_write_them(path: str, says: str) -> None:
    assert read(path) == says


@pytest.mark.parametrize(
    ("repo_id", "base"),
    [
        ("bartowski/Qwen_Qwen3-8B-GGUF", "qwen-qwen3-8b"),
        ("mradermacher/Cydonia-24B-i1-GGUF", "cydonia-24b"),
        ("google/gemma-3-4b-it-qat-q4_0-gguf", "gemma-3-4b-it-qat"),
        ("mistralai/Devstral-Small-2507_gguf", "devstral-small-2507"),
    ],
)
def test_a_repositorys_name_tells_the_models(repo_id: str, base: str) -> None:
    assert base_of_repo(repo_id) == base


@given(st.text() | st.text("aQ4_KM-.0/12of").map("{}.gguf".format))
def test_every_name_says_something(path: str) -> None:
    name = parse_file_name(path)
    assert 1 <= name.no <= name.count
    assert name.kind == "other" or name.stem
