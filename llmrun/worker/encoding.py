"""From a request to the tokens of its prompt, and whether they leave room for an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmrun.engine.protocol import CountTokens, Generate, Phase, TokenCounts
from llmrun.errors import ContextOverflowError, EngineError, UsageError
from llmrun.message import Message, RawPrompt, Tool
from llmrun.settings import MAX_N_CTX
from llmrun.thinking import Variables
from llmrun.worker.llama import Context
from llmrun.worker.prompt import Prompt, PromptEncoder
from llmrun.worker.vocabulary import Vocabulary

Tell = Callable[[Phase], None]


def render(
    messages: Sequence[Message],
    variables: Variables,
    encoder: PromptEncoder,
    tell: Tell,
    shown: Sequence[str] = (),
    *,
    tools: Sequence[Tool] = (),
) -> str:
    """Return a conversation as its template has it; only the template runs in the phase of that name.

    shown: images of other conversations that are still to be read.
    """
    tell(Phase("prefill"))
    harmless, fields = encoder.neutralize_all(messages, tools, shown)
    tell(Phase("template"))
    text = encoder.render(harmless, variables, fields)
    tell(Phase("prefill"))
    return text


def encode(request: Generate, encoder: PromptEncoder, tell: Tell) -> Prompt:
    """Return the prompt of a request; the tokens of the conversation that the encoder remembers are taken over."""
    if request.raw is not None:
        tell(Phase("prefill"))
        return encode_raw(request.raw, encoder.vocabulary)
    return encoder.tokenize(render(request.messages, request.variables, encoder, tell, tools=request.tools))


def count(question: CountTokens, encoder: PromptEncoder, tell: Tell, shown: Sequence[str] = ()) -> TokenCounts:
    """Count a conversation's tokens; nothing of it is read. shown: as of `render`."""
    whole = encoder.tokenize(render(question.messages, {}, encoder, tell, shown, tools=question.tools))
    contents = [encoder.vocabulary.tokenize(message.content, parse_special=False) for message in question.messages]
    return TokenCounts(len(whole.tokens), tuple(map(len, contents)))


def encode_raw(raw: RawPrompt, vocabulary: Vocabulary) -> Prompt:
    """Return the prompt of a text that is gone on with as it is; control tokens in it are text.

    With a suffix the gap is what is written, in the order of llama.cpp's server (format_prompt_infill of
    tools/server/server-common.cpp): prefix, suffix, middle. Raises UsageError for tokens that there are not, and for a
    suffix where the model has no tokens for it.
    """
    strange = [token for token in raw.tokens if not 0 <= token < vocabulary.n_tokens]
    if strange:
        raise UsageError(f"there is no token {strange[0]}: the model's are 0 to {vocabulary.n_tokens - 1:,}")
    if raw.tokens:  # as they are: who counts tokens has put its own first
        return Prompt("", raw.tokens)
    tokens = vocabulary.tokenize(raw.text, parse_special=False)
    if raw.suffix is not None:
        marks = vocabulary.infill
        if marks is None:
            raise UsageError(
                "this model cannot fill in the middle: its vocabulary has no tokens for that",
                "leave out the suffix, or take a model for code that has them",
            )
        suffix = vocabulary.tokenize(raw.suffix, parse_special=False)
        tokens = [marks.prefix, *tokens, marks.suffix, *suffix, marks.middle]
    if vocabulary.adds_bos and vocabulary.bos >= 0:
        tokens.insert(0, vocabulary.bos)
    elif not tokens and vocabulary.bos >= 0:  # something must be read, for its logits
        tokens.append(vocabulary.bos)
    return Prompt("", tuple(tokens))


def check_room(prompt: Prompt, room: int, context: Context) -> None:
    """Raise ContextOverflowError where a prompt leaves no room for an answer, EngineError where there is none."""
    n_prompt, n_ctx = len(prompt.tokens) + prompt.extra_cells, context.n_ctx
    if n_prompt == 0:  # there would be no logits to draw the first token from
        raise EngineError("the conversation is empty once the model's chat template has rendered it")
    if n_prompt + room > n_ctx:
        left = n_ctx - n_prompt
        holds = f"which leaves {left:,} of {n_ctx:,} for" if left > 0 else f"and the context holds {n_ctx:,} with"
        raise ContextOverflowError(
            f"the conversation has {n_prompt:,} tokens, {holds} the answer",
            _what_helps(n_prompt + room, context.model.n_ctx_train),
        )


def _what_helps(n_tokens: int, n_ctx_train: int) -> str:
    if 0 < n_ctx_train < n_tokens:
        return f"shorten it, or take a model with a longer context: this one was trained on {n_ctx_train:,} tokens"
    return f"a larger context may help: --ctx {min(n_ctx_train or MAX_N_CTX, _next_power_of_two(n_tokens + 512))}"


def _next_power_of_two(number: int) -> int:
    return 1 << max(9, (number - 1).bit_length())
