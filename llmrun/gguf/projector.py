"""A projector by its header: the part of a model that turns images into what the model reads as tokens. Pure.

What is checked here is what llama.cpp's clip.cpp would end its process for, or say without naming the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmrun.errors import GGUFError
from llmrun.gguf.header import GGUFHeader

_HINT = "take the mmproj file from the model's own repository"
# mtmd.cpp, mtmd_decode_use_non_causal: an image's tokens see each other, so that all have to be in one batch; gemma4v
# only beside some models
_WHOLE_IMAGES = frozenset({"gemma3", "gemma4v", "gemma4uv", "deepseek4v"})
_MAX_SIDE = 16384  # pixels or patches; nothing is made for more
# Where images keep their size: for how many tokens of one llama.cpp makes room at first, and for how many we let it go
# on to (clip.cpp, load_hparams: set_warmup_n_tokens, set_limit_image_tokens). Its own limits of 4,096 and more are cut
# to 2,116, which are 1,288 pixels a side with Qwen's patches: more would take the whole of a usual context, and room
# that is made in the middle of an answer.
_SQUARE = 46 * 46
_ROOM = {
    "qwen2vl_merger": (_SQUARE, _SQUARE),
    "qwen2.5vl_merger": (_SQUARE, _SQUARE),
    "qwen3vl_merger": (_SQUARE, _SQUARE),
    "ling3vl": (_SQUARE, _SQUARE),
    "glm4v": (_SQUARE, _SQUARE),
    "pixtral": (256, 1024),
    "kimivl": (256, 1024),
    "gemma4v": (256, 1120),
    "gemma4uv": (256, 1120),
    "minimax_m3": (256, 576),
    "youtuvl": (256, _SQUARE),
    "muse-glimmer": (1024, _SQUARE),
    "hunyuanvl": (1024, _SQUARE),
}
_SCALED = frozenset({"gemma3", "idefics3", "internvl", "llama4"})
_DEFAULT_SCALES = {"gemma3": 4}  # clip.cpp, load_hparams


@dataclass(frozen=True, slots=True)
class Projector:
    """A projector: its header, its type by llama.cpp's name, and the least batch it needs, tokens; 0 is any.

    n_tokens: of an image, at most; None where that is not known before it is loaded.
    """

    header: GGUFHeader
    kind: str
    n_tokens: int | None
    n_batch: int = 0

    @property
    def limit(self) -> int | None:
        """Tokens of an image that llama.cpp is to be held to; None where its own limit holds."""
        return _ROOM[self.kind][1] if self.kind in _ROOM else None

    @property
    def growth(self) -> float:
        """How many times the room that is made at first the largest image takes, 1 where it is made for that."""
        first, most = _ROOM.get(self.kind, (1, 1))
        return most / first

    @property
    def size(self) -> int:
        """Bytes of the weights, padding left out."""
        return self.header.tensor_bytes


def parse_projector(header: GGUFHeader) -> Projector:
    """Return what a header says of a projector for images; raises GGUFError, saying what the file is, for another."""
    if header.architecture != "clip":
        raise GGUFError("it is a model, not a projector for images", _HINT)
    if not header.bool_or_none("clip.has_vision_encoder"):
        raise GGUFError("it is a projector that sees nothing, only for sound", _HINT)
    kind = header.string_or_none("clip.projector_type") or header.string_or_none("clip.vision.projector_type")
    if kind is None:
        raise GGUFError("it does not say of which type it is", _HINT)
    image, patch = (header.uint(f"clip.vision.{key}") for key in ("image_size", "patch_size"))
    if not (0 < patch <= image <= _MAX_SIDE):
        raise GGUFError(f"it has images of {image} pixels in patches of {patch}, which cannot be", _HINT)
    for key in ("embedding_length", "attention.head_count"):
        if not 0 < header.uint(f"clip.vision.{key}") <= 1 << 20:
            raise GGUFError(f"it has a {key} of {header.uint(f'clip.vision.{key}')}, which cannot be", _HINT)
    n_tokens = _tokens(header, kind, image // patch)
    return Projector(header, kind, n_tokens, (n_tokens or 0) if kind in _WHOLE_IMAGES else 0)


def _tokens(header: GGUFHeader, kind: str, side: int) -> int | None:
    """Return the tokens of an image at most, where clip.cpp's clip_n_output_tokens is simple."""
    if kind == "mlp":
        return None if "clip.vision.image_grid_pinpoints" in header.metadata else side * side
    if kind in _ROOM:
        return _ROOM[kind][1]
    if kind not in _SCALED:
        return None
    scale = header.uint_or_none("clip.vision.projector.scale_factor") or _DEFAULT_SCALES.get(kind, 0)
    one = side * side // (scale * scale) if scale else None
    return one if kind == "gemma3" else None  # the others cut an image into several, by its shape


def check_projector(projector: Projector, base: GGUFHeader) -> None:
    """Raise GGUFError where a projector's tokens are not as wide as those of the model of this header."""
    n_embd = base.uint(base.arch("embedding_length"))
    stated = projector.header.uint_or_none("clip.vision.projection_dim")
    # files made long ago state another width there; what is made of it has the model's even so
    ends = {n for tensor in projector.header.tensors if not tensor.name.startswith("v.blk.") for n in tensor.shape}
    if n_embd not in {stated, *ends}:
        raise GGUFError(f"it is for a model with embeddings of {stated:,}, and these are of {n_embd:,}", _HINT)
