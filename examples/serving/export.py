"""Export a summarization model to ONNX: an encoder and a decoder, in fp32 and in int8 (dynamic quantization).

Usage: ``python export.py --model google-t5/t5-small --output t5-small``, or ``--model smoke-t5`` for a tiny model of
random weights. The folder then holds all that ``app.py`` serves: ``pytorch/``, ``onnx/`` and ``onnx-int8/``; and with
``--triton DIR`` a model repository for Triton is written, too.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SMOKE = ("smoke-t5", "smoke-bart")
OPSET = 18
PARTS = ("encoder", "decoder")


def load(name: str, folder: Path) -> tuple[Any, Any]:
    """Return model and tokenizer by name; a tiny one is made in a folder."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    if name in SMOKE:
        sys.path.insert(0, str(HERE.parent / "summarization"))
        import smoke

        smoke.make_model(name.removeprefix("smoke-"), folder)
        name = str(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(name, attn_implementation="eager"), AutoTokenizer.from_pretrained(name)


def parts(model: Any) -> dict[str, Any]:
    """Return encoder and decoder as modules of plain tensors."""
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.get_encoder()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    class Decoder(torch.nn.Module):
        """The logits of the next token."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, decoder_input_ids: Any, hidden: Any, attention_mask: Any) -> Any:
            out = self.model(
                decoder_input_ids=decoder_input_ids, encoder_outputs=(hidden,), attention_mask=attention_mask,
                use_cache=False,
            )  # fmt: skip
            return out.logits[:, -1, :]

    return {"encoder": Encoder().eval(), "decoder": Decoder().eval()}


def export(model: Any, folder: Path) -> None:
    """Write encoder.onnx and decoder.onnx; batch and lengths are dynamic."""
    import torch

    batch, source, target = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "source", "target"))
    ids, mask = torch.randint(5, 50, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    modules = parts(model)
    with torch.no_grad():
        hidden = modules["encoder"](ids, mask)
    given: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
        "encoder": (
            (ids, mask),
            {"input_ids": {0: batch, 1: source}, "attention_mask": {0: batch, 1: source}},
            "hidden",
        ),
        "decoder": (
            (ids[:, :3], hidden, mask),
            {
                "decoder_input_ids": {0: batch, 1: target},
                "hidden": {0: batch, 1: source},
                "attention_mask": {0: batch, 1: source},
            },
            "logits",
        ),
    }
    for name, (inputs, shapes, output) in given.items():
        torch.onnx.export(
            modules[name], inputs, folder / f"{name}.onnx", input_names=list(shapes), output_names=[output],
            dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def quantize(folder: Path, into: Path) -> None:
    """Write both with int8 weights; activations are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in PARTS:
        quantize_dynamic(
            folder / f"{name}.onnx", into / f"{name}.onnx", weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": 1},
        )  # fmt: skip


def triton(onnx: Path, repository: Path) -> None:
    """Write a model repository for Triton's ONNX Runtime backend, with the configuration files beside this script."""
    for name in PARTS:
        (repository / f"summarizer_{name}" / "1").mkdir(parents=True, exist_ok=True)
        shutil.copy(onnx / f"{name}.onnx", repository / f"summarizer_{name}" / "1" / "model.onnx")
        shutil.copy(
            HERE / "triton-repository" / f"summarizer_{name}" / "config.pbtxt", repository / f"summarizer_{name}"
        )


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smoke-t5", help="name on the hub, a folder, smoke-t5 or smoke-bart")
    parser.add_argument("--output", type=Path, default=Path("summarizer"), help="folder for all that is made")
    parser.add_argument("--triton", type=Path, help="folder for a model repository, too")
    given = parser.parse_args()
    folders = {name: given.output / name for name in ("pytorch", "onnx", "onnx-int8")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        model, tokenizer = load(given.model, Path(scratch))
        model.eval().save_pretrained(folders["pytorch"])
        for folder in folders.values():
            tokenizer.save_pretrained(folder)
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
        export(model, folders["onnx"])
        quantize(folders["onnx"], folders["onnx-int8"])
    if given.triton is not None:
        triton(folders["onnx"], given.triton)
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".onnx", ".safetensors"))
        print(f"{folder}: {name}, {size / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
