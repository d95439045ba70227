"""An endpoint for the tests: answers of each kind, measured by the middleware."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

import greenml
from greenml.integrations.asgi import GreenMiddleware

PLAIN = bool(os.environ.get("GREENML_TEST_PLAIN"))  # without the middleware, for comparison
state = {"started": False}


@asynccontextmanager
async def lifespan(_):
    state["started"] = True
    yield


app = FastAPI(lifespan=lifespan)
if not PLAIN:
    meter = greenml.serve(os.environ["GREENML_TEST_OUTPUT"], name="test endpoint", region="SWE", price_per_hour=3.6)
    app.add_middleware(
        GreenMiddleware, meter=meter, headers=bool(os.environ.get("GREENML_TEST_HEADERS")),
        usage=bool(os.environ.get("GREENML_TEST_HEADERS")), exclude=["/health"],
    )  # fmt: skip


def completion(tokens: int) -> dict:
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return {"id": "c", "model": "tiny", "choices": [{"text": "é" * tokens}], "usage": usage}


@app.get("/health")
async def health():
    return PlainTextResponse("ok")


@app.get("/items/{number}")
async def item(number: int):
    return JSONResponse({"number": number})


@app.post("/v1/completions")
async def complete(tokens: int = 5):
    await asyncio.sleep(0.02)
    return JSONResponse(completion(tokens))


@app.get("/stream")
async def stream(tokens: int = 4):
    async def events():
        for at in range(tokens):
            await asyncio.sleep(0.05)
            yield f"data: {json.dumps({'model': 'tiny', 'choices': [{'text': str(at)}], 'usage': None})}\n\n"
        last = {"model": "tiny", "choices": [], "usage": completion(tokens)["usage"]}
        text = f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n"
        yield text[:20]
        yield text[20:]

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/slow")
async def slow():
    await asyncio.sleep(2)
    return PlainTextResponse("late")


@app.get("/broken")
async def broken():
    raise RuntimeError("broken")
