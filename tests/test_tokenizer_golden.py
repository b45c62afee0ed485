"""Our token ids are llama.cpp's own on all vocabularies that it ships with expected ids.

models/ggml-vocab-*.gguf.inp holds texts and .out their ids, as tests/test-tokenizer-0.cpp of llama.cpp reads them.
"""

from __future__ import annotations

import pytest

from llmrun.worker.llama import load_vocabulary
from tests.engine_source import extract_folder

SEPARATOR = "\n__ggml_vocab_test__\n"  # after the last text too, in most files
VOCABULARIES = (
    "bert-bge",
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
)


def test_every_vocabulary_with_expected_ids_is_tested() -> None:
    """The list above is all that the engine's source has."""
    outputs = extract_folder("models").glob("ggml-vocab-*.gguf.out")
    assert sorted(file.name.removeprefix("ggml-vocab-").removesuffix(".gguf.out") for file in outputs) == list(
        VOCABULARIES
    )


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_ids_of_every_text_are_those_of_llama_cpp(name: str) -> None:
    """Without BOS or EOS, and control tokens' texts read as text."""
    folder = extract_folder("models")
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode().removesuffix(SEPARATOR).split(SEPARATOR)
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text(encoding="ascii").splitlines()
    expected = [[int(number) for number in line.split()] for line in lines]
    vocabulary = load_vocabulary(folder / f"ggml-vocab-{name}.gguf")
    assert [vocabulary.tokenize(text, parse_special=False) for text in texts] == expected
