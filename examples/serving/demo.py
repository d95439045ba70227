"""A page that summarizes dialogues, and shows what each answer used and what share of the day's total that is.

Usage: ``python demo.py summarizer --engine onnx --port 7860``
"""

from __future__ import annotations

import argparse
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from summarizer import ENGINES, Summarizer

import greenml

EXAMPLE = (
    "Nadia: Did you feed the cat this morning?\nTom: I thought you did.\n"
    "Nadia: She's been shouting at me since seven.\nTom: OK, feeding her now. Sorry, Pickle."
)


class Day:
    """The joules of the requests of today (UTC)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._day, self._joules = "", 0.0

    def share(self, joules: float) -> float:
        """Add a request, and return its share of the day up to now."""
        with self._lock:
            today = datetime.now(timezone.utc).date().isoformat()
            if today != self._day:
                self._day, self._joules = today, 0.0
            self._joules += joules
            return joules / self._joules if self._joules else 0.0


def build(summarize: Summarizer, meter: greenml.ServingMeter) -> Any:
    """Return the page."""
    import gradio

    day = Day()

    def answer(dialogue: str) -> tuple[str, str, str, str]:
        with meter.request(model=f"{summarize.name}-{summarize.engine}", kind="demo") as request:
            summary = summarize(dialogue)
            request.tokens(input=summary.input_tokens, output=summary.output_tokens)
        used = request.wait(60.0)  # its window is settled in a second or two
        if used is None or used.energy_joules is None:
            return summary.text, "not measured", "not known", "not known"
        energy = f"{used.energy_joules:.3g} J"
        if used.energy_low_joules is not None and used.energy_high_joules is not None:
            energy += f" ({used.energy_low_joules:.3g} to {used.energy_high_joules:.3g} J)"
        carbon = "not known" if used.co2e_grams is None else f"{used.co2e_grams * 1000:.3g} mg CO2e"
        return summary.text, energy, carbon, f"{day.share(used.energy_joules):.1%} of today's requests"

    with gradio.Blocks(title="Summaries with their energy") as page:
        gradio.Markdown(f"# Summaries with their energy\n{summarize.name}, {summarize.engine}, measured by greenml")
        dialogue = gradio.Textbox(EXAMPLE, lines=8, label="Dialogue")
        button = gradio.Button("Summarize", variant="primary")
        summary = gradio.Textbox(label="Summary")
        with gradio.Row():
            figures = [gradio.Textbox(label=label) for label in ("Energy", "Carbon", "Share of the day's energy")]
        button.click(answer, dialogue, [summary, *figures], api_name="summarize")
    return page


def main() -> None:
    """Read the command line and serve the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="what export.py made")
    parser.add_argument("--engine", choices=ENGINES, default="onnx")
    parser.add_argument("--port", type=int, default=7860)
    given = parser.parse_args()
    with greenml.serve(name="demo") as meter:
        build(Summarizer(given.folder, given.engine), meter).launch(server_name="127.0.0.1", server_port=given.port)


if __name__ == "__main__":
    main()
