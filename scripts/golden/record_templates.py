"""Asks llama-server's /apply-template for every template × conversation and writes down what it says.

One server process for each template, because the template is a matter of its command line. The model is a toy made
here, whose vocabulary adds neither BOS nor EOS: where it did, the server would cut off what the template wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import gguf
import numpy as np

from scripts.golden.conversations import CONVERSATIONS, Conversation

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "templates.json"
BOS, EOS = "<s>", "</s>"
NOW = "2026-07-04 12:34:56"
START_SECONDS = 60
FAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketimeMT.so.1")  # where Debian puts it


def write_toy_model(path: Path) -> None:
    """A llama of one layer and 8 dimensions that llama-server accepts."""
    rng = np.random.default_rng(0)
    pieces = ["<unk>", BOS, EOS] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    shapes = {"token_embd": (len(pieces), 32), "output": (len(pieces), 32), "output_norm": (32,)}
    shapes |= {f"blk.0.{name}": (32, 32) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{name}": (32, 32) for name in ("ffn_gate", "ffn_up", "ffn_down")}
    shapes |= {f"blk.0.{name}": (32,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def post(port: int, path: str, body: object) -> dict[str, object]:
    """The answer of the server; its error object where it refuses."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def is_healthy(port: int) -> bool:
    """Whether the server has loaded its model."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def start_server(server: Path, model: Path, template: Path, faketime: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server's process and port, ready to answer."""
    port = free_port()
    command = [str(server), "-m", str(model), "--jinja", "--chat-template-file", str(template), "--port", str(port)]
    command += ["--host", "127.0.0.1", "-c", "256", "-np", "1", "-t", "1", "--no-warmup"]
    environment = os.environ | {"LD_PRELOAD": str(faketime), "FAKETIME": f"@{NOW}", "TZ": "UTC", "LC_ALL": "C"}
    log = model.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    deadline = time.monotonic() + START_SECONDS
    while not is_healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            sys.exit(f"{server} does not start with {template}:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)
    return process, port


def ask(port: int, messages: Conversation) -> dict[str, str]:
    """One conversation: {"text": ...}, {"refused": words of the template}, or {"error": words of llama.cpp}."""
    answer = post(port, "/apply-template", {"messages": messages})
    if "prompt" in answer:
        return {"text": str(answer["prompt"])}
    error = answer["error"]
    assert isinstance(error, dict)
    _, refusal, words = str(error["message"]).partition("Error: Jinja Exception: ")
    return {"refused": words} if refusal else {"error": str(error["message"])}


def record(server: Path, model: Path, template: Path, faketime: Path) -> dict[str, dict[str, str]]:
    """What llama.cpp makes of one template, by conversation."""
    process, port = start_server(server, model, template, faketime)
    try:
        return {name: ask(port, messages) for name, messages in CONVERSATIONS.items()}
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """The entry: see scripts/record_templates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--templates", type=Path, required=True, help="a folder of *.jinja files")
    parser.add_argument("--faketime", type=Path, default=FAKETIME)
    arguments = parser.parse_args()
    files = sorted(arguments.templates.glob("*.jinja"))
    templates: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "toy.gguf"
        write_toy_model(model)
        for number, file in enumerate(files, 1):
            print(f"{number}/{len(files)} {file.name}", file=sys.stderr)
            templates[file.name] = record(arguments.server, model, file, arguments.faketime)
    golden = {"bos_token": BOS, "eos_token": EOS, "now": NOW, "conversations": CONVERSATIONS, "templates": templates}
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
