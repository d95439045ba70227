"""An endpoint that summarizes dialogues, and says what each request used.

Usage: ``SUMMARIZER=summarizer ENGINE=onnx uvicorn app:app --port 8000`` in this folder. Settings of greenml as always:
``GREENML_SKU``, ``GREENML_REGION``, ``GREENML_TIER``. The record is serving.json.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel, Field
from summarizer import Summarizer

from greenml.integrations.asgi import GreenMiddleware

FOLDER, ENGINE = Path(os.environ.get("SUMMARIZER", "summarizer")), os.environ.get("ENGINE", "pytorch")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model."""
    app.state.summarize = Summarizer(FOLDER, ENGINE)
    yield


app = FastAPI(title="Summaries with their energy", lifespan=lifespan)
# All that it takes: /metrics for Prometheus, /greenml for people, and the energy in each answer's usage.
app.add_middleware(
    GreenMiddleware, model=f"{FOLDER.name}-{ENGINE}", headers=True, usage=True, exclude=("/health",), name=FOLDER.name
)


class Dialogue(BaseModel):
    """What is asked."""

    dialogue: str = Field(min_length=1, max_length=100_000)


@app.get("/health")
def health() -> dict[str, str]:
    """Tell that the model is loaded: AzureML and Kubernetes ask."""
    return {"status": "ok", "engine": app.state.summarize.engine}


@app.post("/summarize")
def summarize(asked: Dialogue) -> dict[str, object]:
    """Summarize a dialogue; ``usage`` as OpenAI has it: the middleware reads the tokens there, and adds the energy."""
    summary = app.state.summarize(asked.dialogue)
    usage = {
        "prompt_tokens": summary.input_tokens, "completion_tokens": summary.output_tokens,
        "total_tokens": summary.input_tokens + summary.output_tokens,
    }  # fmt: skip
    return {"summary": summary.text, "usage": usage}
