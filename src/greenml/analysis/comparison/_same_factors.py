"""Runs accounted with one carbon intensity and PUE, so that their emissions differ by what they used alone."""

from __future__ import annotations

from collections.abc import Sequence

from greenml import accounting, per_unit
from greenml.errors import SettingsError
from greenml.record import DeviceRecord, Factors, RunRecord, Totals, Usage


def with_factors_of(record: RunRecord, baseline: RunRecord) -> RunRecord:
    """Return a record accounted with another's carbon intensity and PUE; prices stay, they are of its own machine.

    Of a carbon intensity that is known by the hour, its mean over the other run's energy is taken.

    Raises:
        SettingsError: the other record has no carbon intensity or no PUE.
    """
    intensity, pue = baseline.factors.carbon_intensity, baseline.factors.pue
    if intensity is None or pue is None:
        missing = "carbon intensity" if intensity is None else "PUE"
        raise SettingsError(f"--same-factors: no {missing} is known of the baseline; give another --baseline")
    if record is baseline:
        return record
    factors = record.factors.model_copy(
        update={"carbon_intensity": intensity, "pue": pue, "intensity_course": None},
    )
    by_id = {device.id: device for device in record.devices}
    totals = [_total("run", record.duration_seconds, [(one, one.usage) for one in record.devices], factors, record)]
    for phase in record.phases:
        used = [(by_id[name], usage) for name, usage in phase.usage.items() if name in by_id]
        totals.append(_total(phase.path, phase.seconds, used, factors, record))
    train = next((one for one in totals if one.scope == record.training_path), None)
    derived = per_unit.derived(train, record.trainer) if train is not None else {}
    return record.model_copy(update={"factors": factors, "totals": totals, "derived": derived})


def _total(
    scope: str,
    seconds: float,
    used: Sequence[tuple[DeviceRecord, Usage]],
    factors: Factors,
    record: RunRecord,
) -> Totals:
    return accounting.totals(scope, seconds, used, factors, record.place.nodes)
