"""All there is to ask for, in one table: what is served, described and let in is read from it."""

from __future__ import annotations

from llmrun.server import docs, health, page, plans
from llmrun.server.anthropic import messages
from llmrun.server.endpoint import Endpoint
from llmrun.server.ollama import chat as ollama_chat
from llmrun.server.ollama import embeddings as ollama_embeddings
from llmrun.server.ollama import models as ollama_models
from llmrun.server.openai import chat, completions, embeddings, models, responses

_ASKED: tuple[Endpoint, ...] = (
    *models.ENDPOINTS,
    *chat.ENDPOINTS,
    *completions.ENDPOINTS,
    *responses.ENDPOINTS,
    *embeddings.ENDPOINTS,
    *messages.ENDPOINTS,
    *ollama_chat.ENDPOINTS,
    *ollama_models.ENDPOINTS,
    *ollama_embeddings.ENDPOINTS,
    *health.ENDPOINTS,
    *plans.ENDPOINTS,
    *page.ENDPOINTS,
)
ENDPOINTS: tuple[Endpoint, ...] = (*_ASKED, *docs.endpoints(_ASKED))
