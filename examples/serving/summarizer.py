"""Summarize a dialogue with PyTorch, ONNX Runtime in fp32, or ONNX Runtime in int8: one greedy loop for all three.

The loop keeps no cache of keys and values, so that the engines differ in nothing but the runtime and the weights.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("pytorch", "onnx", "onnx-int8")
MOST_SOURCE_TOKENS, MOST_TOKENS = 512, 24
THREADS = int(os.environ.get("THREADS", "1"))  # of one request: requests share the cores


@dataclass(frozen=True)
class Summary:
    """A summary, and the tokens that were read and made for it."""

    text: str
    input_tokens: int
    output_tokens: int


class TorchEngine:
    """The model in PyTorch."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM

        torch.set_num_threads(THREADS)
        self._torch = torch
        self._model = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Return the encoder's states."""
        with self._torch.inference_mode():
            return self._model.get_encoder()(
                input_ids=self._torch.from_numpy(ids), attention_mask=self._torch.from_numpy(mask)
            ).last_hidden_state

    def logits(self, target: np.ndarray, hidden: Any, mask: np.ndarray) -> np.ndarray:
        """Return the logits of the next token."""
        with self._torch.inference_mode():
            out = self._model(
                decoder_input_ids=self._torch.from_numpy(target), encoder_outputs=(hidden,),
                attention_mask=self._torch.from_numpy(mask), use_cache=False,
            )  # fmt: skip
        return out.logits[:, -1, :].numpy()


class OnnxEngine:
    """The exported model in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._encoder, self._decoder = (
            onnxruntime.InferenceSession(
                folder / f"{part}.onnx", options, providers=onnxruntime.get_available_providers()
            )
            for part in ("encoder", "decoder")
        )

    def encode(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        """Return the encoder's states."""
        return self._encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    def logits(self, target: np.ndarray, hidden: Any, mask: np.ndarray) -> np.ndarray:
        """Return the logits of the next token."""
        given = {"decoder_input_ids": target, "hidden": hidden, "attention_mask": mask}
        names = {each.name for each in self._decoder.get_inputs()}  # an exporter drops what a model does not use
        return self._decoder.run(None, {name: value for name, value in given.items() if name in names})[0]


class Summarizer:
    """A model of ``export.py`` in one of the engines."""

    def __init__(self, folder: Path, engine: str = "pytorch", most_tokens: int = MOST_TOKENS) -> None:
        from transformers import AutoTokenizer

        if engine not in ENGINES:
            raise SystemExit(f"engine {engine!r}; there are {', '.join(ENGINES)}")
        folder = folder / engine
        if not folder.is_dir():
            raise SystemExit(f"{folder} is not there; 'python export.py --output {folder.parent}' makes it")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        self.name, self.engine, self._most_tokens = folder.parent.name, engine, most_tokens
        self._start, self._end = config["decoder_start_token_id"], config["eos_token_id"]
        self._prefix = "summarize: " if config.get("model_type") == "t5" else ""
        self._no_repeat = generation.get("no_repeat_ngram_size") == 1
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._engine = TorchEngine(folder) if engine == "pytorch" else OnnxEngine(folder)

    def __call__(self, dialogue: str) -> Summary:
        """Summarize a dialogue."""
        encoded = self._tokenizer(
            self._prefix + dialogue, max_length=MOST_SOURCE_TOKENS, truncation=True, return_tensors="np"
        )
        ids, mask = encoded["input_ids"].astype(np.int64), encoded["attention_mask"].astype(np.int64)
        hidden, target = self._engine.encode(ids, mask), [self._start]
        while len(target) <= self._most_tokens:
            scores = self._engine.logits(np.array([target], dtype=np.int64), hidden, mask)[0]
            if self._no_repeat:
                scores[target[1:]] = -np.inf
            target.append(int(scores.argmax()))
            if target[-1] == self._end:
                break
        text = self._tokenizer.decode(target[1:], skip_special_tokens=True)
        return Summary(text.strip(), ids.shape[1], len(target) - 1)
