"""Did the run keep what was asked of it?

A KPI is a figure's name and a condition, `accuracy: ">= 0.85"`. Figures that are known while a run
goes on are shown live; all of them are judged at the end.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from orchestrator.views.readable import BYTES, TIME, human
from policies.units import DURATION, SIZE, Dimension

DAY_S: Final = 86_400.0

_CONDITION: Final = re.compile(r"\s*(<=|>=|<|>)\s*(.*\S)\s*")
_UNIT: Final = re.compile("_(bytes|seconds)")
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class Named(NamedTuple):
    """A figure that a KPI can name.

    Attributes:
        meaning: In one line.
        dimension: What its thresholds are quantities of; None for plain numbers and shares.
        share: Whether it always lies in [0, 1].
        late: Whether nobody knows it before the run ends.
    """

    meaning: str
    dimension: Dimension | None = None
    share: bool = False
    late: bool = False


FIGURES: Final[dict[str, Named]] = {
    "accuracy": Named("of the newest evaluation", share=True),
    "tail_accuracy": Named("mean over the last tenth of the evaluations", share=True),
    "best_accuracy": Named("highest of all evaluations", share=True),
    "accuracy_swing": Named(
        "standard deviation over the last tenth of the evaluations", share=True
    ),
    "mean_client_accuracy": Named("mean over the clients of their own", share=True, late=True),
    "worst_decile_accuracy": Named(
        "mean over the worst-served tenth of the clients", share=True, late=True
    ),
    "accuracy_spread": Named(
        "standard deviation between the clients' accuracies", share=True, late=True
    ),
    "participation": Named(
        "share of the clients with an update in the model", share=True, late=True
    ),
    "cycle_seconds": Named("mean from being asked to the update's arrival", DURATION, late=True),
    "most_load": Named("largest busy share x memory share of a client", late=True),
    "mean_staleness": Named("of the updates in the model, in versions"),
    "virtual_seconds": Named("the run's own time", DURATION),
    "uplink_bytes": Named("all that clients sent", SIZE),
    "downlink_bytes": Named("all that clients were sent", SIZE),
    "activation_uplink_bytes": Named("activations and answers to an encoder", SIZE),
    "activation_downlink_bytes": Named("features and gradients from an encoder", SIZE),
    "backhaul_uplink_bytes": Named("all that cells sent to the server", SIZE),
    "backhaul_downlink_bytes": Named("all that cells were sent by the server", SIZE),
    "wasted_bytes": Named("both ways, for updates that came to nothing", SIZE),
    "uplink_bytes_per_client_day": Named("mean, over the run's own time", SIZE),
    "downlink_bytes_per_client_day": Named("mean, over the run's own time", SIZE),
    "energy_joules": Named("of all devices"),
    "energy_joules_per_client_day": Named("mean, over the run's own time"),
    "wasted_share": Named("of the device seconds, for updates that came to nothing", share=True),
    "rejected_share": Named("of the updates that came", share=True),
}
"""Every figure that a KPI can name."""


class Verdict(NamedTuple):
    """How a KPI stands.

    Attributes:
        asked: The condition, as written.
        value: The figure; None while it is not known.
        met: Whether the condition holds; None while that is not known.
    """

    asked: str
    value: float | None
    met: bool | None

    def text(self, name: str) -> str:
        """Return it in a few words, of the figure that `name` names."""
        word = {True: "met", False: "missed", None: "not known"}[self.met]
        if self.value is None:
            return f"{word}: {self.asked}"
        return f"{word}: {_shown(name, self.value, '.6g')}, asked {self.asked}"

    def short(self, name: str) -> str:
        """Return it as short as it can be told while the run goes on.

        A figure that must be high enough may still get there; what must stay low has missed it.
        """
        figure = FIGURES[name]
        label = name if figure.dimension is None else _UNIT.sub("", name)
        if self.value is None:
            return f"{label} ? {self.asked}{' at the end' if figure.late else ''}"
        word = "ok" if self.met else "not yet" if self.asked.lstrip()[0] == ">" else "MISSED"
        return f"{label} {_shown(name, self.value, '.4g')} {self.asked} {word}"


def _shown(name: str, value: float, digits: str) -> str:
    """Write a figure in the unit of its dimension; a plain number with so many digits."""
    dimension = FIGURES[name].dimension
    if dimension is None:
        return f"{value:{digits}}"
    return human(value, BYTES if dimension is SIZE else TIME)


def short(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return how many of the known ones are met, then each, in the words of a progress line."""
    if not verdicts:
        return []
    known = [verdict.met for verdict in verdicts.values() if verdict.met is not None]
    told = [verdict.short(name) for name, verdict in verdicts.items()]
    return [f"KPIs {sum(known)}/{len(known)}", *told]


def parse(name: str, condition: str) -> tuple[str, float]:
    """Take a condition apart.

    Args:
        name: Of a figure in `FIGURES`.
        condition: A comparison and a threshold; a unit or a per cent sign may follow it.

    Returns:
        The comparison, and the threshold in the figure's base unit.

    Raises:
        PydanticCustomError: If it is no condition on that figure.
    """
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise PydanticCustomError(
            "kpi",
            "must be a comparison and a threshold such as '>= 0.85', got {condition}. "
            "Comparisons: <=, >=, <, >.",
            {"condition": repr(condition)},
        )
    compare, text = found.groups()
    dimension = FIGURES[name].dimension
    if dimension is not None:
        return compare, dimension.parse(text)
    scale = 0.01 if text.endswith("%") else 1.0
    try:
        threshold = scale * float(text.removesuffix("%"))
    except ValueError:
        threshold = math.nan
    if not math.isfinite(threshold):
        raise PydanticCustomError(
            "kpi",
            "{name} is a plain number; its threshold must be one, such as 0.85 or 85 %, got "
            "{text}.",
            {"name": name, "text": repr(text)},
        )
    return compare, threshold


def _reachable(name: str, condition: str) -> None:
    """Refuse a condition on a share that no value in [0, 1] meets."""
    compare, threshold = parse(name, condition)
    best = 1.0 if compare in {">", ">="} else 0.0
    if FIGURES[name].share and not _COMPARE[compare](best, threshold):
        raise PydanticCustomError(
            "kpi",
            "{name} lies in [0, 1], where {condition} is never met. Give a threshold in that "
            "range, such as 0.85 or 85 %.",
            {"name": name, "condition": repr(condition)},
        )


def _checked(kpis: dict[str, str]) -> dict[str, str]:
    """Refuse unknown figures and conditions that are none, each at its own place."""
    wrong: list[InitErrorDetails] = []
    for name, condition in kpis.items():
        try:
            if name not in FIGURES:
                near = difflib.get_close_matches(name, FIGURES, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(FIGURES)}."
                raise PydanticCustomError(  # noqa: TRY301  # collected with the others
                    "unknown_kpi",
                    "{name} is no figure of a run. {hint}",
                    {"name": name, "hint": hint},
                )
            _reachable(name, condition)
        except PydanticCustomError as error:
            wrong.append(InitErrorDetails(type=error, loc=(name,), input=condition))
    if wrong:
        raise ValidationError.from_exception_data("kpis", wrong)
    return kpis


Kpis = Annotated[dict[str, str], AfterValidator(_checked)]
"""Conditions by the name of their figure."""


def figures(status: Mapping[str, Any], clients: int) -> dict[str, float]:
    """Return the figures that a run's running totals tell.

    Args:
        status: `Engine.status`, or a summary.
        clients: In the fleet.
    """
    found = {name: float(status[name]) for name in FIGURES if status.get(name) is not None}
    found["virtual_seconds"] = float(status.get("time_s", status.get("virtual_seconds", 0)))
    client_days = clients * found["virtual_seconds"] / DAY_S
    for name in ("uplink_bytes", "downlink_bytes", "energy_joules"):
        if client_days > 0 and name in found:
            found[f"{name}_per_client_day"] = found[name] / client_days
    if status.get("device_seconds"):
        found["wasted_share"] = status["wasted_device_seconds"] / status["device_seconds"]
    came = status.get("updates", 0) + status.get("rejected_updates", 0)
    if came:
        found["rejected_share"] = status["rejected_updates"] / came
    return found


def judge(kpis: Mapping[str, str], known: Mapping[str, float]) -> dict[str, Verdict]:
    """Say how each KPI stands."""
    verdicts = {}
    for name, condition in kpis.items():
        value = known.get(name)
        if value is None or math.isnan(value):
            verdicts[name] = Verdict(condition, None, None)
            continue
        compare, threshold = parse(name, condition)
        verdicts[name] = Verdict(condition, value, _COMPARE[compare](value, threshold))
    return verdicts
