"""Does a user's own member of any family survive being written and read back?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.document import ExperimentFileError, to_yaml
from orchestrator.experiment import Experiment, read
from policies.base import Policy

OWN = '''
"""A user's own members, one a family."""

from pydantic import PositiveInt

from actors.learning.encoders import Cut, EncoderPolicy, Origin
from actors.learning.models import ModelPolicy
from actors.learning.partition import PartitionPolicy
from actors.learning.subspaces import SubspacePolicy
from orchestrator.fleet import AvailabilityPolicy, JitterPolicy, LinkPolicy
from policies.aggregation import FedBuff
from policies.aggregation.base import AggregationPolicy, Pacing
from policies.correction import CorrectionPolicy
from policies.selection import SelectionPolicy
from policies.sparsity import DownlinkPolicy, PruningPolicy, UplinkPolicy
from policies.splitting.activations import ActivationPolicy
from policies.staleness import StalenessPolicy
from policies.training import TrainingPolicy
from policies.training.workload import WorkloadPolicy

class Activation(ActivationPolicy):
    knob: PositiveInt
    def write(self, values, schema): raise NotImplementedError
    def least_bits(self, schema): return 0.0

class Aggregation(AggregationPolicy):
    knob: PositiveInt
    def takes(self): return frozenset({"delta"})
    def pacing(self): return Pacing(self.knob)
    def apply(self, model, memory, batch): return memory

class Availability(AvailabilityPolicy):
    knob: PositiveInt
    def status(self, seed, clients, time_s): raise NotImplementedError

class Correction(CorrectionPolicy):
    knob: PositiveInt
    def correct(self, batch, model): return batch
    def flops(self, staleness): return 0.0

class Downlink(DownlinkPolicy):
    knob: PositiveInt

class Encoder(EncoderPolicy):
    knob: PositiveInt
    def cuts(self, shape): return (Cut((2,), 1, 1, 1), Cut((2,), 2, 2, 2))
    def features(self, shape): return self.knob
    def build(self, shape): raise NotImplementedError
    def missing(self): return None
    def origin(self): return Origin("", "own", "not stated", "")

class Subspace(SubspacePolicy):
    knob: PositiveInt
    def parameters(self, encoder, shape): return 1
    def first_block(self, blocks): return 0
    def apply(self, encoder): raise NotImplementedError

class Jitter(JitterPolicy):
    knob: PositiveInt
    def factor(self, seed, client, number, time_s): return 1.0

class Link(LinkPolicy):
    knob: PositiveInt
    def pieces(self, seed, client, time_s, way, nominal): raise NotImplementedError

class Model(ModelPolicy):
    knob: PositiveInt
    def parameters(self, shape): return self.knob
    def forward_flops(self, shape): return self.knob
    def activation_bytes(self, shape): return self.knob
    def build(self, shape): raise NotImplementedError

class Partition(PartitionPolicy):
    knob: PositiveInt
    def split(self, labels, clients, rng): return []

class Pruning(PruningPolicy):
    knob: PositiveInt
    def keep(self, model, alive, schema, stage, memory): return None, memory

class Selection(SelectionPolicy):
    knob: PositiveInt
    def choose(self, clients, count, rng): return []

class Staleness(StalenessPolicy):
    knob: PositiveInt
    def weight(self, staleness): return 1.0

class Training(TrainingPolicy):
    knob: PositiveInt
    def train(self, model, x, y, task): raise NotImplementedError

class Uplink(UplinkPolicy):
    knob: PositiveInt
    def sends(self): return "delta"
    def compress(self, weights, base, state, rng): raise NotImplementedError

class Workload(WorkloadPolicy):
    knob: PositiveInt
    def batches(self, asked, batch_s): return self.knob

class Buffer(FedBuff):
    knob: PositiveInt = 1

class NamedBuffer(FedBuff):
    kind: str
    knob: PositiveInt = 1

def network(shape, knob): raise NotImplementedError
'''
FILE = """\
name: own
data: {source: digits}
model: {kind: logistic}
fleet: {clients: 8, mix: [{profile: budget-phone}]}
method: {}
stop: {versions: 1}
"""
PLACES = {
    "Aggregation": "method.aggregation",
    "Availability": "fleet.availability",
    "Correction": "method.correction",
    "Downlink": "method.downlink",
    "Jitter": "fleet.jitter",
    "Link": "fleet.link",
    "Model": "model",
    "Partition": "data.partition",
    "Pruning": "method.pruning",
    "Selection": "method.selection",
    "Staleness": "method.staleness",
    "Training": "method.training",
    "Uplink": "method.uplink",
    "Workload": "method.workload",
}

INSIDE = {
    "Activation": "topology.activations",
    "Encoder": "model.encoder",
    "Subspace": "model.trains",
}
"""Families that stand within a pretrained model, or a split one."""
PRETRAINED = "{kind: pretrained, encoder: {kind: 'own_members:Encoder', knob: 3}}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an experiment file and `own_members`, importable by reading the file."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own_members", raising=False)
    (tmp_path / "own_members.py").write_text(OWN)
    (tmp_path / "x.yaml").write_text(FILE)
    return tmp_path


def at(experiment: Experiment, place: str) -> Any:
    value: Any = experiment
    for name in place.split("."):
        value = getattr(value, name)
    return value


def survives(folder: Path, place: str, name: str) -> Any:
    """Set a member by `--set`, write the experiment, read it back; return the member."""
    kind = f"own_members:{name}"
    first, _ = read(folder / "x.yaml", (f"{place}.kind={kind}", f"{place}.knob=3"))
    (folder / "again.yaml").write_text(to_yaml(first))
    again, notes = read(folder / "again.yaml")
    assert notes == []
    assert again == first
    assert Experiment.model_validate(first.model_dump(mode="json")) == first
    member = at(again, place)
    assert member.kind == kind
    return member


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_own_members_are_written_and_read_back(folder: Path, name: str, place: str) -> None:
    """Class, kind and fields of a member come back, from YAML and from what actors are sent."""
    member = survives(folder, place, name)
    assert type(member).__name__ == name
    assert type(member).__module__ == "own_members"
    assert member.knob == 3


@pytest.mark.parametrize(("name", "place"), INSIDE.items())
def test_own_members_within_a_model_are_written_and_read_back(
    folder: Path, name: str, place: str
) -> None:
    """The same holds one level below."""
    text = FILE.replace("{kind: logistic}", PRETRAINED)
    (folder / "x.yaml").write_text(
        f"{text}topology: {{kind: split, activations: {{kind: dense}}}}\n"
    )
    assert survives(folder, place, name).knob == 3


def test_every_family_has_a_sample() -> None:
    """A family that is added to the project must be added above."""
    ours = [
        base.__name__.removesuffix("Policy")
        for base in Policy.__subclasses__()
        if base.__module__.startswith(("policies.", "actors.", "orchestrator."))
    ]
    assert sorted(ours) == sorted([*PLACES, *INSIDE])


def test_all_at_once(folder: Path) -> None:
    """An experiment of nothing but own members reads back equal."""
    sets = [
        setting
        for name, place in PLACES.items()
        for setting in (f"{place}.kind=own_members:{name}", f"{place}.knob=2")
    ]
    first, _ = read(folder / "x.yaml", tuple(sets))
    (folder / "again.yaml").write_text(to_yaml(first))
    assert read(folder / "again.yaml") == (first, [])


def test_own_function_is_a_model(folder: Path) -> None:
    """A function that makes a model keeps its arguments."""
    (folder / "x.yaml").write_text(FILE.replace("digits", "mnist5k"))
    (folder / "own_members.py").write_text(
        "from torch import nn\n"
        "def network(shape, knob):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, knob), nn.Linear(knob, 10))\n"
    )
    assert survives(folder, "model", "network").model_extra == {"knob": 3}


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_mistakes_in_own_members(folder: Path, name: str, place: str) -> None:
    """What is wrong, unknown or missing in a member is named as in ours."""
    kind = f"{place}.kind=own_members:{name}"

    def mistakes(*sets: str) -> str:
        with pytest.raises(ExperimentFileError, match="knob") as caught:
            read(folder / "x.yaml", (kind, *sets))
        return str(caught.value)

    assert mistakes().endswith(f": {place}.knob is missing. Add it.")
    too_low = f"--set {place}.knob=0: {place}.knob must be at least 1, got 0."
    assert mistakes(f"{place}.knob=0") == too_low
    unknown = mistakes(f"{place}.knob=1", f"{place}.knop=1")
    assert f"{place}.knop is no known name. Did you mean knob?" in unknown


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_setting_a_kind_drops_own_fields(folder: Path, name: str, place: str) -> None:
    """A member of ours takes the place of an own one; the fields that it lacks go, with a note."""
    experiment, _ = read(folder / "x.yaml")
    kind = at(experiment, place).kind
    sets = (f"{place}.kind=own_members:{name}", f"{place}.knob=2", f"{place}.kind={kind}")
    changed, notes = read(folder / "x.yaml", sets)
    assert changed == experiment
    assert notes == [f"{place}: dropped knob: {kind} has no such fields"]


def test_a_member_derived_from_ours_names_itself(folder: Path) -> None:
    """A subclass of a member of ours inherits its kind, and is told to declare its own."""
    place = "method.aggregation"
    assert survives(folder, place, "NamedBuffer").knob == 3
    message = "own_members:Buffer must declare `kind: str`, because it inherits fedbuff"
    with pytest.raises(ExperimentFileError, match=message):
        read(folder / "x.yaml", (f"{place}.kind=own_members:Buffer",))


@pytest.mark.parametrize("what", ["FILE", "network"])
def test_what_is_no_class(folder: Path, what: str) -> None:
    """A path that names a value or a function where a class must be is told so."""
    with (folder / "own_members.py").open("a") as file:
        file.write("FILE = 3\n")
    message = rf"own_members:{what} must be a class derived from policies\.staleness"
    with pytest.raises(ExperimentFileError, match=message):
        read(folder / "x.yaml", (f"method.staleness.kind=own_members:{what}",))
