"""Accelerate's tracker: what a loop on an Accelerator took, beside what it logs."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker

import greenml


class GreenTracker(GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """Measures from its making to ``Accelerator.end_training()``: ``Accelerator(log_with=GreenTracker())``.

    Make it in every process: each device is measured once, and rank 0 speaks for the run. ``tracker`` is the run, for
    phases of the loop: ``with green.tracker.phase("train"):`` (``accelerator.get_tracker`` has it in rank 0 alone, and
    gives the others a tracker that can do nothing). A tracker cannot add to what other trackers are logged; log the
    running totals yourself: ``accelerator.log({..., **green.figures()})``.

    Args:
        output: where the record goes, ``run.json`` by default.
        settings: all other arguments of ``greenml.track()``.

    Raises:
        SettingsError: a value is wrong, or the output cannot be written; one line says what would be right.
    """

    name = "greenml"
    requires_logging_directory = False
    main_process_only = False

    def __init__(self, output: str | os.PathLike[str] | None = None, **settings: Any) -> None:  # noqa: ANN401
        super().__init__()
        # Accelerate calls start() on the main process alone; the other hosts' devices would not be measured.
        self._run = greenml.track(output, **settings).start()

    @property
    def tracker(self) -> greenml.Run:
        """The run."""
        return self._run

    def start(self) -> None:
        """Keep how Accelerate was set up; it measures already."""
        self._describe()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep the configuration given to ``init_trackers``, as parameters."""
        self._run.params(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:  # noqa: ANN401
        """Keep what is given to ``Accelerator.log``, the last of each name; and the step."""
        self._run.log({name: value for name, value in values.items() if not name.startswith("green/")})
        if step is not None:
            self._run.log(step=step)

    def finish(self) -> None:
        """End the measurement; the engine is known by now."""
        self._describe()
        self._run.stop()

    def figures(self) -> dict[str, float]:
        """Return the running totals under the names that other trackers can show; what is not known has no name."""
        return self._run.totals().figures(self._run.settings.tier or "dedicated")

    def _describe(self) -> None:
        with contextlib.suppress(Exception):  # an Accelerator of another version tells less; its loop goes on
            state = AcceleratorState()
            self._run.params(gradient_accumulation_steps=GradientState().num_steps)
            self._run.describe(
                ran={
                    "world_size": state.num_processes,
                    "distributed_type": state.distributed_type.value,
                    "mixed_precision": state.mixed_precision,
                    "device": state.device.type,
                }
            )
            if state.deepspeed_plugin is not None:
                self._run.describe(ds_config=dict(state.deepspeed_plugin.deepspeed_config))
