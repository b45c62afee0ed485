"""grouping, selecting: a repository's files as the quantizations of a model, and which is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrun.errors import NotFoundError
from llmrun.grouping import Grouped, group_files
from llmrun.selecting import select, select_file
from llmrun.variant import ModelFile, RemoteFile, Variant

GIB = 1 << 30
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = (Path(__file__).parent / "golden" / "names" / "files.txt").read_text("utf-8").splitlines()


def remote(path: str, size: int = GIB, repo_id: str = "them/Model-8B-GGUF") -> ModelFile:
    return ModelFile(path, size, RemoteFile(repo_id, COMMIT, path))


def group(*paths: str, repo_id: str = "them/Model-8B-GGUF") -> Grouped:
    """Group files of 1 GiB each; imatrix and lora files have a MiB."""
    small = ("imatrix", "lora")
    return group_files([remote(p, GIB >> (10 if any(w in p for w in small) else 0), repo_id) for p in paths])


def names(variants: Sequence[Variant]) -> dict[str, list[str]]:
    return {variant.quant: [file.name for file in variant.files] for variant in variants}


def beside(grouped: Grouped) -> list[tuple[str, str]]:
    return [(sidecar.kind, sidecar.file.name) for sidecar in grouped.sidecars]


def broken(grouped: Grouped) -> list[tuple[str, str]]:
    return [(unusable.files[0].name, unusable.reason) for unusable in grouped.unusable]


def test_each_quantization_is_a_variant_the_smallest_first() -> None:
    files = [remote("Model-8B-Q8_0.gguf", 9 * GIB), remote("Model-8B-UD-Q4_K_XL.gguf", 5 * GIB), remote("README.md", 9)]
    grouped = group_files(files)
    assert names(grouped.variants) == {"UD-Q4_K_XL": ["Model-8B-UD-Q4_K_XL.gguf"], "Q8_0": ["Model-8B-Q8_0.gguf"]}
    assert [variant.quant for variant in grouped.variants] == ["UD-Q4_K_XL", "Q8_0"]
    assert (grouped.others, grouped.sidecars, grouped.unusable) == ((), (), ())


def test_the_parts_of_a_split_model_are_one_variant_in_their_order() -> None:
    grouped = group("Q8_0/M-Q8_0-00002-of-00002.gguf", "Q8_0/M-Q8_0-00001-of-00002.gguf", "M-F16.gguf")
    parts = ["Q8_0/M-Q8_0-00001-of-00002.gguf", "Q8_0/M-Q8_0-00002-of-00002.gguf"]
    assert names(grouped.variants) == {"F16": ["M-F16.gguf"], "Q8_0": parts}


@pytest.mark.parametrize(
    ("present", "count", "reason"),
    [
        ((1, 3), 3, "part 2 of 3 is missing"),
        ((2,), 3, "parts 1 and 3 of 3 are missing"),
        ((1, 2), 29, "27 of 29 parts are missing"),
    ],
)
def test_a_model_with_missing_parts_is_unusable(present: tuple[int, ...], count: int, reason: str) -> None:
    paths = [f"M-Q8_0-{no:05d}-of-{count:05d}.gguf" for no in present]
    grouped = group(*paths)
    assert (grouped.variants, broken(grouped)) == ((), [(paths[0], reason)])


def test_what_lies_beside_a_model_is_told_by_its_name() -> None:
    grouped = group(
        "Model-8B-Q4_K_M.gguf",
        "mmproj-Model-8B-F16.gguf",
        "mtp-Model-8B.gguf",
        "Model-8B-DFlash-BF16.gguf",
        "Model-8B.imatrix.gguf",
        "imatrix_unsloth.gguf_file",
        "ggml-vocab-model.gguf",
        "Model-8B-lora-F16.gguf",
    )
    assert names(grouped.variants) == {"Q4_K_M": ["Model-8B-Q4_K_M.gguf"]}
    assert beside(grouped) == [
        ("mmproj", "mmproj-Model-8B-F16.gguf"),
        ("draft", "mtp-Model-8B.gguf"),
        ("draft", "Model-8B-DFlash-BF16.gguf"),
        ("imatrix", "Model-8B.imatrix.gguf"),
        ("imatrix", "imatrix_unsloth.gguf_file"),
        ("vocab", "ggml-vocab-model.gguf"),
        ("lora", "Model-8B-lora-F16.gguf"),
    ]


def test_a_small_file_in_a_folder_named_after_a_sidecar_is_one() -> None:
    files = [
        remote("MTP/mtp-Q8_0.gguf"),
        remote("dspark/Q8_0.gguf"),
        remote("Model-8B-assistant.Q8_0.gguf"),
        remote("MTP/Model-8B-MTP-Q8_0.gguf", 90 * GIB),
    ]
    grouped = group_files(files)
    assert names(grouped.variants) == {"Q8_0": ["MTP/Model-8B-MTP-Q8_0.gguf"]}
    assert beside(grouped) == [("draft", file.name) for file in files[:3]]


def test_a_whole_model_may_have_such_a_word_in_its_name() -> None:
    """A sidecar that only its name suggests is also small."""
    flash = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
    files = [
        remote(flash, 81 * GIB),
        remote("DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf", 3 * GIB),
        remote("Other-MTP-Q4_K_M.gguf", 20 * GIB),
    ]
    grouped = group_files(files)
    assert [variant.files[0].name for variant in (*grouped.variants, *grouped.others)] == [flash, files[2].name]
    assert beside(grouped) == [("draft", "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf")]


def test_files_nobody_can_load_are_called_what_they_are() -> None:
    grouped = group(
        "M-Q4_0_4_8.gguf",
        "M-IQ4_KS.gguf",
        "M.Q8_0.gguf.part1of2",
        "M.Q8_0.gguf.part2of2",
        "../M-Q4_K_M.gguf",
        "a\\M-Q4_K_M.gguf",
        "/M-Q4_K_M.gguf",
        "C:M-Q4_K_M.gguf",
        "M\x1b-Q4_K_M.gguf",
    )
    windows = "has a character in its name that Windows takes for another place"
    assert grouped.variants == ()
    assert dict(broken(grouped)) == {
        "M-Q4_0_4_8.gguf": "llama.cpp no longer knows Q4_0_4_8: it lays out Q4_0 anew while loading it",
        "M-IQ4_KS.gguf": "only ik_llama.cpp knows IQ4_KS",
        "M.Q8_0.gguf.part1of2": "was cut into pieces by bytes, which nothing loads before they are joined",
        "../M-Q4_K_M.gguf": "leads out of its repository",
        "a\\M-Q4_K_M.gguf": windows,
        "/M-Q4_K_M.gguf": "is an absolute path",
        "C:M-Q4_K_M.gguf": windows,
        "M\x1b-Q4_K_M.gguf": "has control characters in its name",
    }


@pytest.mark.parametrize(
    ("paths", "quants"),
    [
        (["M.Q4_K_M.gguf", "M.i1-Q4_K_M.gguf"], {"Q4_K_M", "i1-Q4_K_M"}),
        (["M-Q4_K_M.gguf", "M-Q4_K_M-imat.gguf"], {"Q4_K_M", "Q4_K_M-imat"}),
        (["old/M-Q4_K_M.gguf", "new/M-Q4_K_M.gguf"], {"old-Q4_K_M", "new-Q4_K_M"}),
        (["M-Q3_K_S-3.25bpw.gguf", "M-Q3_K_S-2.25bpw.gguf"], {"Q3_K_S-3.25bpw", "Q3_K_S-2.25bpw"}),
        (["gpu/M-Q3_K_S-3.2bpw.gguf", "cpu/M-Q3_K_S-2.9bpw.gguf"], {"Q3_K_S-3.2bpw", "Q3_K_S-2.9bpw"}),
        (["M-Q4_K_M.gguf", "Q4_K_M/m.gguf"], {"M-Q4_K_M", "Q4_K_M/m"}),
        (["M-kquant-17gb.gguf", "M-kquant-dynamic.gguf"], {"17gb", "dynamic"}),
        (["M.gguf", "M-Q8_0.gguf"], {"M", "Q8_0"}),
    ],
)
def test_variants_with_one_label_are_told_apart_by_what_differs(paths: list[str], quants: set[str]) -> None:
    assert {variant.quant for variant in group(*paths, repo_id="them/M-GGUF").variants} == quants


def test_a_name_without_a_label_leaves_it_to_the_header() -> None:
    grouped = group("M-kquant-17gb.gguf", "M-Q8_0.gguf", "i1/M.i1-Q8_0.gguf", repo_id="them/M-GGUF")
    assert {variant.quant: variant.label for variant in grouped.variants} == {
        "kquant-17gb": None,
        "Q8_0": "Q8_0",
        "i1-Q8_0": "Q8_0",
    }


def test_several_models_in_one_repository_are_not_mixed_up() -> None:
    """The one the repository is named after is taken, else the one with the most files; the others keep their names."""
    paths = ["Model-8B-Q4_K_M.gguf", "Model-8B-instruct-Q4_K_M.gguf", "Model-8B-instruct-Q8_0.gguf"]
    grouped = group(*paths)
    assert names(grouped.variants) == {"Q4_K_M": paths[:1]}
    assert [(variant.base, variant.quant) for variant in grouped.others] == [
        ("model-8b-instruct", "Q4_K_M"),
        ("model-8b-instruct", "Q8_0"),
    ]
    assert names(group(*paths, repo_id="them/all-GGUF").variants) == {"Q4_K_M": paths[1:2], "Q8_0": paths[2:]}
    assert select_file(grouped, paths[2]).files[0].name == paths[2]


def test_a_model_that_is_there_whole_and_in_parts_is_taken_whole() -> None:
    parts = ("M-Q4_K_M-00001-of-00002.gguf", "M-Q4_K_M-00002-of-00002.gguf")
    grouped = group(*parts, "M-Q4_K_M.gguf")
    assert names(grouped.variants) == {"Q4_K_M": ["M-Q4_K_M.gguf"]}
    assert select_file(grouped, parts[1]).files == tuple(map(remote, parts))


def test_the_files_of_a_folder_are_grouped_like_a_repositorys() -> None:
    """What is here already is named as it is: no path of it is refused."""
    here = Path("models/Model-8B")
    files = [ModelFile(name, GIB, here / name) for name in ("a:b-Q4_K_M.gguf", "Model-8B-Q8_0.gguf")]
    grouped = group_files(files)
    assert (names(grouped.variants), grouped.unusable) == ({"Q8_0": ["Model-8B-Q8_0.gguf"]}, ())
    assert group_files([]) == Grouped(())


def test_every_file_of_public_repositories_has_one_place() -> None:
    repos: dict[str, list[ModelFile]] = {}
    for line in FILES:
        repo_id, path = line.split("\t")
        repos.setdefault(repo_id, []).append(remote(path, GIB, repo_id))
    for files in repos.values():
        check_places(files)


WORDS = st.sampled_from(["M", "x", "Q4_K_M", "Q8_0", "i1", "F16", "imatrix", "mmproj", "00001-of-00002", "m"])
PATHS = st.lists(WORDS, min_size=1, max_size=4).flatmap(
    lambda words: st.sampled_from(["-", ".", "/", "_"]).map(lambda mark: f"{mark.join(words)}.gguf")
)


@given(st.lists(PATHS, unique=True, max_size=8))
def test_whatever_files_are_called_each_has_one_place_and_each_variant_a_quantization_of_its_own(
    paths: list[str],
) -> None:
    check_places([remote(path) for path in paths])


def check_places(files: Sequence[ModelFile]) -> None:
    grouped = group_files(files)
    variants = (*grouped.variants, *grouped.others)
    placed = [file.name for variant in variants for file in variant.files]
    placed += [file.name for unusable in grouped.unusable for file in unusable.files]
    placed += [sidecar.file.name for sidecar in grouped.sidecars]
    assert sorted(placed) == sorted(file.name for file in files)
    quants = [variant.quant for variant in grouped.variants]
    assert all(quants)
    assert len(set(quants)) == len(quants)


LARGE = group(
    "Model-8B-Q4_K_M.gguf",
    "Model-8B-UD-Q4_K_XL.gguf",
    "Model-8B-UD-Q8_0.gguf",
    "Model-8B-Q8_0.gguf",
    "Model-8B-APEX-I-Mini.gguf",
    "Model-8B-IQ4_XS.gguf",
    "Model-8B-Q4_0_4_4.gguf",
    "Model-8B-kquant-17gb.gguf",
    "Other-8B-F16.gguf",
    "mmproj-F16.gguf",
)


@pytest.mark.parametrize(
    ("quant", "found"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K_XL", "UD-Q4_K_XL"),
        ("Q8_0", "Q8_0"),
        ("UD-Q8_0", "UD-Q8_0"),
        ("q8", "Q8_0"),
        ("UD-Q4_K_M", "Q4_K_M"),
        ("apex-i-mini", "APEX-I-Mini"),
        ("mini", "APEX-I-Mini"),
        ("17gb", "kquant-17gb"),
        ("Model-8B-IQ4_XS", "IQ4_XS"),
        ("f16", "F16"),
    ],
)
def test_a_quantization_is_found_as_people_write_it(quant: str, found: str) -> None:
    """By its label first, with `UD-` left out or put in, then by any piece of a file's name that only one has."""
    assert select(LARGE, quant).quant == found


@pytest.mark.parametrize(
    ("quant", "message", "hint"),
    [
        ("Q5_K_M", "there is no quantization Q5_K_M", "there are Q4_K_M, "),
        ("Q4_0_4_4", "Q4_0_4_4: Model-8B-Q4_0_4_4.gguf llama.cpp no longer knows", "there are "),
        ("q4_k", "q4_k may be any of Q4_K_M, UD-Q4_K_XL", "name one of them: `:Q4_K_M`"),
    ],
)
def test_a_quantization_that_is_not_there_is_answered_with_those_that_are(quant: str, message: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        select(LARGE, quant)
    assert caught.value.message.startswith(message)
    assert (caught.value.hint or "").startswith(hint)


@pytest.mark.parametrize(
    ("filename", "message"),
    [
        ("x.gguf", "there is no file x.gguf"),
        ("mmproj-F16.gguf", "mmproj-F16.gguf is no model: it is one's mmproj file"),
        ("Model-8B-Q4_0_4_4.gguf", "Model-8B-Q4_0_4_4.gguf llama.cpp no longer knows Q4_0_4_4"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_why(filename: str, message: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        select_file(LARGE, filename)
    assert caught.value.message.startswith(message)


def test_a_repository_without_a_model_says_so() -> None:
    with pytest.raises(NotFoundError) as caught:
        select(group("mmproj-F16.gguf"), "Q4_K_M")
    assert caught.value.hint == "no file here is a model: choose another repository"
