"""A finished run to GGUF files: F16 with the gguf package, then Q8_0 and Q4_K_M with llama.cpp itself.

Run as a module it exports a run again: `python -m scripts.guide.export --out build/guide [--install]`.
"""

import argparse
import ctypes
import json
import shutil
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from torch import Tensor

from scripts.guide.network import Network
from scripts.guide.run import Run
from scripts.guide.tokenizer import END, END_OF_TEXT, SPECIALS

MODELS = Path(__file__).resolve().parents[2] / "models"
QUANTS = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}
DESCRIPTION = (
    "A tiny chat model, trained from scratch on a CPU, that answers questions about running language models locally."
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMES = {"attention_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_output",
         "feed_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}  # fmt: skip


def export_run(run: Run) -> list[Path]:
    """Write the three files into the run's folder; prints their sizes."""
    source = run.gguf_path("F16")
    write_f16(run, source)
    paths = [source]
    for quant, file_type in QUANTS.items():
        paths.append(run.gguf_path(quant))
        quantize(source, paths[-1], file_type)
    for path in paths:
        print(f"{path}  {path.stat().st_size:,} bytes", flush=True)
    return paths


def install(run: Run) -> None:
    """Copy the exported files into models/."""
    for quant in ("F16", *QUANTS):
        shutil.copyfile(run.gguf_path(quant), MODELS / f"guide-{quant}.gguf")


def write_f16(run: Run, path: Path) -> None:
    """The run's network and tokenizer as one GGUF file with 16-bit matrices."""
    network = run.load_network()
    writer = gguf.GGUFWriter(path, "llama")
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("router.")}
    _add_card(writer, sum(tensor.numel() for tensor in tensors.values()))
    _add_shape(writer, network)
    _add_tokenizer(writer, run.tokenizer_path)
    for name, tensor in tensors.items():
        writer.add_tensor(*_convert(name, tensor, network.shape.heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_card(writer: gguf.GGUFWriter, parameters: int) -> None:
    writer.add_type("model")
    writer.add_name("guide")
    writer.add_author("llmrun")
    writer.add_license("MIT")
    writer.add_description(DESCRIPTION)
    writer.add_size_label(f"{parameters / 1e6:.1f}M")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_float32("general.sampling.temp", 0.0)  # llama.cpp, src/llama-arch.cpp, LLM_KV_GENERAL_SAMPLING_*
    writer.add_float32("general.sampling.penalty_repeat", 1.0)


def _add_shape(writer: gguf.GGUFWriter, network: Network) -> None:
    shape = network.shape
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)


def _add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    model = json.loads(path.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _convert(name: str, tensor: Tensor, heads: int) -> tuple[str, npt.NDArray[np.generic]]:
    """A tensor's GGUF name and values; matrices in 16 bits, norms in 32."""
    parts = name.split(".")
    values: npt.NDArray[np.float32] = tensor.float().numpy()
    if parts[0] == "layers":
        new = f"blk.{parts[1]}.{NAMES[parts[2]]}.weight"
        values = _interleaved(values, heads) if parts[2] in ("q", "k") else values
    else:
        new = {"embedding": "token_embd.weight", "norm": "output_norm.weight", "output": "output.weight"}[parts[0]]
    return new, values if values.ndim == 1 else values.astype(np.float16)


def _interleaved(matrix: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows in the order of llama.cpp's rotary form for "llama": pairs side by side, not half a head apart."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def quantize(source: Path, target: Path, file_type: int) -> None:
    """Write `source` quantized to `target` with llama.cpp."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    llama_cpp.llama_log_set(_silence, ctypes.c_void_p())
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) != 0:
        raise RuntimeError(f"llama.cpp could not quantize {source}")


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Log nothing."""


def main() -> int:
    """Export the run again."""
    parser = argparse.ArgumentParser(prog="python -m scripts.guide.export")
    parser.add_argument("--out", type=Path, default=Path("build/guide"), help="folder of the run")
    parser.add_argument("--install", action="store_true", help="copy the files into models/")
    options = parser.parse_args()
    export_run(Run(options.out))
    if options.install:
        install(Run(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
