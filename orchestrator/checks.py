"""Do the sections of an experiment file fit together?

Each check looks at a few valid sections and says where the mistake is, what the rule is, and the
way out. Nothing here starts anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from actors.learning.data import DataSettings, DataShape
from actors.learning.models import ModelPolicy
from actors.learning.natural import Natural
from actors.learning.sources.silos import Silos
from orchestrator.document import Check
from orchestrator.fleet import FleetSettings, ServerSettings, apportion, fits
from orchestrator.sections import Evaluate, Guards, Hosting, PlannedFault
from policies.aggregation import AggregationPolicy
from policies.correction import CorrectionPolicy
from policies.memory import Memory
from policies.method import (
    PART_BLOCK,
    Method,
    absorption_misfits,
    cell_misfits,
    correction_misfits,
    lateness_misfits,
    mask_misfits,
    misfits,
    most_parts,
    part_misfits,
    sparse_weights_misfits,
)
from policies.sparsity import DownlinkPolicy, PruningPolicy, UplinkPolicy
from policies.splitting import Ends, Process, Split, Topology, Whole
from policies.training import TrainingPolicy
from policies.training.sgd import LocalSteps
from policies.training.workload import WorkloadPolicy
from policies.types import ExperimentError


def ends_of(split: Split, model: ModelPolicy, shape: DataShape) -> dict[int, Ends]:
    """Return how a model may be cut, by the number of blocks on a device, from the fewest on.

    Raises:
        ExperimentError: If it cannot be split, or not there.
    """
    if isinstance(split.cut, int):
        found = {split.cut: model.ends(shape, split.cut)}
    else:
        found = {0: model.ends(shape)}
        with suppress(ExperimentError):
            while True:
                found[len(found)] = model.ends(shape, len(found))
    allowed = {cut: ends for cut, ends in found.items() if _runs_there(split, ends)}
    if split.cut != "all" and allowed:
        return allowed
    whole = {cut: ends for cut, ends in allowed.items() if ends.whole}
    if not whole:
        raise ExperimentError(
            f"topology.cut {split.cut} runs all of the encoder on the devices, which takes one of "
            "which nothing is trained, and gradients through it (topology.gradient exact) for a "
            "trained head. Take auto or a lower number, or model.trains none."
        )
    return whole


def _runs_there(split: Split, ends: Ends) -> bool:
    """Return whether devices can train what is left to them: a whole model by its gradients."""
    return not (ends.whole and ends.head_trained) or split.gradient.exact


def memory_of(model: ModelPolicy, shape: DataShape) -> Memory:
    """Return what training the whole model takes on a device."""
    parameters, activations = model.parameters(shape), model.activation_bytes(shape)
    return Memory(parameters, activations, model.frozen_parameters(shape))


_FEWEST_BASES: Final = 2
"""Past models that must fit where updates are compared with what they started from."""

Finding = Iterator[tuple[str, str]]
"""Pairs of a dotted path and what is wrong there."""


def _fits_together(uplink: UplinkPolicy, aggregation: AggregationPolicy) -> Finding:
    for reason in misfits(uplink, aggregation):
        yield "method.aggregation", reason


def _zeros_arrive(
    uplink: UplinkPolicy, aggregation: AggregationPolicy, pruning: PruningPolicy
) -> Finding:
    for reason in sparse_weights_misfits(uplink, aggregation, pruning):
        yield "method.aggregation", reason


def _zeros_stay(
    training: TrainingPolicy,
    uplink: UplinkPolicy,
    downlink: DownlinkPolicy,
    aggregation: AggregationPolicy,
) -> Finding:
    for reason in absorption_misfits(training, uplink, downlink, aggregation):
        yield "method.training", reason


def _learnt_weights_stay(training: TrainingPolicy, model: ModelPolicy) -> Finding:
    if training.redraws() and model.learnt():
        yield (
            "method.training",
            (
                f"{training.kind} draws the weights of layers that are trained anew, and "
                f"{' and '.join(model.learnt())} begins with those that are there. Set model.head "
                "to frozen and model.trains to none, or take another method.training."
            ),
        )


def _corrects(method: Method) -> Finding:
    for reason in correction_misfits(method.correction, method.uplink, method.staleness):
        yield "method.correction", reason


def _lessons_are_read(method: Method, guards: Guards) -> Finding:
    if guards.anomaly.reads_lessons and not method.correction.compares():
        yield (
            "guards.anomaly.kl",
            (
                "reads how far late updates are from the newest model, and method.correction "
                f"{method.correction.kind} does not have the server measure it. Set "
                "method.correction.kind to distillation, with a strength above 0 and inputs that "
                "are not its clients', or leave kl out."
            ),
        )


def _batches_shrink(method: Method) -> Finding:
    least, asked = method.workload.least_batch, method.training.batch_size
    if least is not None and least > asked:
        yield (
            "method.workload.least_batch",
            f"must not exceed method.training.batch_size = {asked}, got {least}. Lower it.",
        )


def _lateness_weighs(method: Method) -> Finding:
    for reason in lateness_misfits(method.staleness, method.aggregation):
        yield "method.staleness", reason


def _bases_fit(aggregation: AggregationPolicy, data: DataSettings, model: ModelPolicy) -> Finding:
    shape, most = _shape(data), aggregation.bases_bytes()
    if shape is None or not most:
        return
    try:
        least = _FEWEST_BASES * 4 * model.parameters(shape)
    except ExperimentError:  # said by `_model_fits`
        return
    if most < least:
        yield (
            "method.aggregation",
            (
                f"{aggregation.kind} keeps past models in {most} bytes, and {_FEWEST_BASES} of "
                f"them take {least}. Raise method.aggregation.bases: late updates are compared "
                "with what they started from."
            ),
        )


def _masks_agree(pruning: PruningPolicy, downlink: DownlinkPolicy, uplink: UplinkPolicy) -> Finding:
    for reason in mask_misfits(pruning, downlink, uplink):
        yield "method.pruning", reason


def _parts_fit(server: ServerSettings, *policies: Any) -> Finding:
    if server.shards > 1:
        for family, reason in part_misfits(*policies):
            yield f"method.{family}", reason


def _enough_parts(server: ServerSettings, data: DataSettings, model: ModelPolicy) -> Finding:
    shape = _shape(data)
    if server.shards == 1 or shape is None:
        return
    try:
        parameters = model.parameters(shape)
    except ExperimentError:  # said by `_model_fits`
        return
    most = most_parts(parameters)
    if server.shards > most:
        yield (
            "server.shards",
            (
                f"must be at most {most}, got {server.shards}: the model has {parameters} "
                f"parameters, and a part begins at a multiple of {PART_BLOCK}. Lower it."
            ),
        )


def _sums_do(fleet: FleetSettings, *policies: Any) -> Finding:
    if fleet.has_cells():
        for family, reason in cell_misfits(*policies):
            yield f"method.{family}", reason


def _sums_have_one_server(fleet: FleetSettings, server: ServerSettings) -> Finding:
    if fleet.has_cells() and server.shards > 1:
        yield (
            "server.shards",
            (
                f"must be 1 where fleet.regions have cells, got {server.shards}: the sum of a cell "
                "goes to one server. Leave it out, or remove the cells."
            ),
        )


def _enough_clients(fleet: FleetSettings, aggregation: AggregationPolicy) -> Finding:
    cohort = aggregation.pacing().cohort
    if cohort is not None and cohort > fleet.clients:
        yield (
            "method.aggregation",
            (
                f"a round asks {cohort} clients, and the fleet has {fleet.clients}. "
                "Lower clients_per_round (voters of a majority vote) or over_selection, or raise "
                "fleet.clients."
            ),
        )


def _concurrency(fleet: FleetSettings, concurrency: int, aggregation: AggregationPolicy) -> Finding:
    if aggregation.pacing().cohort is None and concurrency > fleet.clients:
        yield (
            "method.concurrency",
            (
                f"must not exceed fleet.clients = {fleet.clients}, got {concurrency}: a client "
                "trains one update at a time. Lower it or raise fleet.clients."
            ),
        )


def _data_is_there(data: DataSettings) -> Finding:
    found = data.trouble()
    if found is not None:
        yield found


def _shape(data: DataSettings) -> DataShape | None:
    """Return the data's shape; None where `_data_is_there` says what is wrong with it."""
    try:
        return data.shape() if data.missing() is None else None
    except ExperimentError:
        return None


def _enough_examples(data: DataSettings, fleet: FleetSettings) -> Finding:
    shape = _shape(data)
    if shape is None or isinstance(data, Silos):
        return
    try:
        most = data.partition.most(shape)
    except ExperimentError:  # said by `_data_is_there`
        return
    if most is not None and fleet.clients > most.clients:
        yield (
            "fleet.clients",
            (
                f"must not exceed the {most.clients} {most.what} of {data.source}, got "
                f"{fleet.clients}. Lower it or take a larger source."
            ),
        )


def _model_fits(
    data: DataSettings,
    model: ModelPolicy,
    fleet: FleetSettings,
    training: TrainingPolicy,
    workload: WorkloadPolicy,
    topology: Topology,
) -> Finding:
    shape, lost = _shape(data), model.missing()
    if lost is not None:
        yield "model", lost
    if shape is None or lost is not None:
        return
    try:
        memory = memory_of(model, shape)
    except ExperimentError as error:
        yield "model", str(error)
        return
    if isinstance(topology, Split):
        with suppress(ExperimentError):  # said by `_can_be_split`
            ends = next(iter(ends_of(topology, model, shape).values()))
            memory = Process(topology, ends, training, examples=1).memory
    known = fleet.known_profiles()
    counts = apportion([entry.share for entry in fleet.mix], fleet.clients)
    taken = (entry.profile for entry, count in zip(fleet.mix, counts, strict=True) if count)
    least, size = workload.least_batch, training.batch_size
    for name in dict.fromkeys(taken):
        trouble = fits(known[name], memory, size if least is None else min(least, size), least)
        if trouble:
            yield "model", trouble


def _faults_name_clients(fleet: FleetSettings, faults: tuple[PlannedFault, ...]) -> Finding:
    for index, fault in enumerate(faults):
        if fault.client >= fleet.clients:
            yield (
                f"faults.{index}.client",
                (
                    f"must lie in [0, {fleet.clients - 1}], got {fault.client}. "
                    "Clients are counted from 0."
                ),
            )


def _tests_are_there(data: DataSettings, evaluate: Evaluate) -> Finding:
    if isinstance(data, Silos):
        if evaluate.kind == "central":
            yield (
                "evaluate.kind",
                (
                    "central needs a common test split, and silos keep their test examples. Take "
                    "federated."
                ),
            )
        return
    natural = isinstance(data.partition, Natural)
    if evaluate.kind == "federated" and not natural:
        yield (
            "evaluate.kind",
            (
                "federated needs clients with test examples of their own: a natural "
                f"data.partition, or silos; {data.partition.kind} leaves the test split whole. "
                "Take central."
            ),
        )


def _inputs_can_be_drawn(data: DataSettings, correction: CorrectionPolicy) -> Finding:
    shape = _shape(data)
    if shape is not None and shape.sort != "images":
        yield (
            "method.correction.proxy",
            f"generated draws images, and the data are {shape.sort}. Take holdout.",
        )
    if correction.asks_labels():
        yield (
            "method.correction.anchor",
            "labels needs inputs that have some, and generated ones have none. Take student.",
        )


def _tutor_has_inputs(data: DataSettings, correction: CorrectionPolicy) -> Finding:
    rows = correction.rows()
    if correction.draws():
        yield from _inputs_can_be_drawn(data, correction)
    elif rows and isinstance(data, Silos):
        yield (
            "method.correction",
            (
                f"{correction.kind} needs inputs that are no client's, and all examples are in "
                "the silos. Set method.correction.proxy to generated, or take distillation with "
                "proxy client."
            ),
        )
    elif rows > data.holdout:
        yield (
            "data.holdout",
            (
                f"must be at least {rows} for method.correction {correction.kind}, whose inputs "
                f"are no client's, got {data.holdout}. Raise it."
            ),
        )


def _teacher_is_known(clock: str, correction: CorrectionPolicy) -> Finding:
    if clock == "wall" and correction.at_client():
        yield (
            "method.correction",
            (
                f"{correction.kind} at the clients is handed over with the training, and on the "
                "wall clock that begins before the version is known that teaches. Set clock to "
                "virtual, or method.correction.proxy to holdout."
            ),
        )


def _silos_are_the_clients(data: DataSettings, fleet: FleetSettings, hosting: Hosting) -> Finding:
    if not isinstance(data, Silos):
        return
    if fleet.clients != len(data.clients):
        yield (
            "fleet.clients",
            f"must be {len(data.clients)}, one for each name in data.clients, got {fleet.clients}.",
        )
    if hosting == "pooled":
        yield (
            "hosting",
            (
                "must be dedicated for silos: each is loaded inside its own client's actor, got "
                "pooled. Leave it out."
            ),
        )


def _can_be_split(topology: Topology, data: DataSettings, model: ModelPolicy) -> Finding:
    shape = _shape(data)
    if not isinstance(topology, Split) or shape is None:
        return
    try:
        model.ends(shape)
    except ExperimentError as error:
        yield "model", str(error)
        return
    try:
        ends_of(topology, model, shape)
    except ExperimentError as error:
        yield "topology.cut", str(error)


def _can_learn(
    topology: Topology, data: DataSettings, model: ModelPolicy, training: TrainingPolicy
) -> Finding:
    shape = _shape(data)
    if shape is None:
        return
    if isinstance(topology, Whole) and not model.learns_through(shape):
        yield (
            "model.head",
            (
                "trained needs gradients through model.encoder, which gives none. Set model.head "
                "to frozen, or take topology split with gradient forward-difference."
            ),
        )
    if not isinstance(topology, Split):
        return
    try:
        found = list(ends_of(topology, model, shape).values())
    except ExperimentError:  # said by `_can_be_split`
        return
    if any(ends.learns and not ends.whole for ends in found) and not (
        isinstance(training, LocalSteps) and type(training).train is LocalSteps.train
    ):
        yield (
            "method.training",
            (
                f"{training.kind} trains a model that is all there, and topology split asks an "
                "encoder in the midst of each step. Take sgd or proximal, or train nothing but the "
                "tail: model.head frozen and model.trains none."
            ),
        )
    if found[0].encoder_trained and topology.replicas > 1:
        yield (
            "topology.replicas",
            (
                f"must be 1 where the encoder is trained, got {topology.replicas}: one of them "
                "would not know what the others have learnt. Lower it, or take model.trains none."
            ),
        )
    if topology.gradient.exact and not model.learns_through(shape):
        yield (
            "topology.gradient",
            (
                "exact needs gradients through the encoder, which gives none. Take "
                "forward-difference or central-difference."
            ),
        )


def _something_is_shared(
    topology: Topology,
    data: DataSettings,
    model: ModelPolicy,
    server: ServerSettings,
    faults: tuple[PlannedFault, ...],
) -> Finding:
    shape = _shape(data)
    if not isinstance(topology, Split) or not topology.personal or shape is None:
        return
    try:
        ends = model.ends(shape)
    except ExperimentError:  # said by `_can_be_split`
        return
    if not ends.learns:
        yield (
            "topology.tail",
            (
                "personal leaves nothing to learn together: nothing but tails is trained. Set "
                "model.head to trained or let model.trains name a part of the encoder, or take "
                "shared."
            ),
        )
    if ends.head_trained:
        return
    if server.shards > 1:
        yield (
            "server.shards",
            (
                f"must be 1, got {server.shards}: with topology.tail personal and a frozen head "
                "clients and parameter server exchange no parameters. Leave it out, or set "
                "model.head to trained."
            ),
        )
    for index, planned in enumerate(faults):
        if planned.fault in {"not-finite", "huge"}:
            yield (
                f"faults.{index}.fault",
                (
                    f"{planned.fault} spoils the numbers of an update, and with topology.tail "
                    "personal and a frozen head it has none. Take another fault, or set model.head "
                    "to trained."
                ),
            )


def _features_stay(topology: Topology, data: DataSettings, model: ModelPolicy) -> Finding:
    shape = _shape(data)
    if not isinstance(topology, Split) or shape is None or isinstance(data, Silos):
        return
    if not isinstance(data.partition, Natural) or data.partition.drift is None:
        return
    with suppress(ExperimentError):  # said by `_can_be_split`
        if not model.ends(shape).learns:
            yield (
                "data.partition.drift",
                (
                    "gives clients other examples from update to update, and with topology split "
                    "features are computed once where nothing but the tail is trained. Remove "
                    "drift, or train the head or a part of the encoder."
                ),
            )


def _split_has_one_server(
    topology: Topology, method: Method, fleet: FleetSettings, evaluate: Evaluate
) -> Finding:
    if not isinstance(topology, Split):
        return
    if method.correction.kind != "none":
        yield (
            "method.correction",
            (
                f"{method.correction.kind} computes the whole model, and with topology split no "
                "client and no parameter server has all of it. Set method.correction.kind to none."
            ),
        )
    if fleet.has_cells():
        yield (
            "fleet.regions",
            (
                "with topology split clients ask one encoder, and cells stand between them and it. "
                "Remove the cells."
            ),
        )
    if evaluate.kind == "federated":
        yield (
            "evaluate.kind",
            (
                "federated tests the whole model at the clients, which have its two ends. Take "
                "central."
            ),
        )


CHECKS = (
    Check(("topology", "data", "model"), _can_be_split),
    Check(("topology", "data", "model", "method.training"), _can_learn),
    Check(("topology", "data", "model", "server", "faults"), _something_is_shared),
    Check(("topology", "data", "model"), _features_stay),
    Check(("topology", "method", "fleet", "evaluate"), _split_has_one_server),
    Check(("method.uplink", "method.aggregation"), _fits_together),
    Check(("method.uplink", "method.aggregation", "method.pruning"), _zeros_arrive),
    Check(
        ("method.training", "method.uplink", "method.downlink", "method.aggregation"), _zeros_stay
    ),
    Check(("method.training", "model"), _learnt_weights_stay),
    Check(("method",), _batches_shrink),
    Check(("method",), _lateness_weighs),
    Check(("method",), _corrects),
    Check(("method", "guards"), _lessons_are_read),
    Check(("method.aggregation", "data", "model"), _bases_fit),
    Check(("method.pruning", "method.downlink", "method.uplink"), _masks_agree),
    Check(
        (
            "server",
            "method.aggregation",
            "method.correction",
            "method.pruning",
            "method.uplink",
            "method.downlink",
        ),
        _parts_fit,
    ),
    Check(("server", "data", "model"), _enough_parts),
    Check(
        (
            "fleet",
            "method.aggregation",
            "method.correction",
            "method.pruning",
            "method.uplink",
        ),
        _sums_do,
    ),
    Check(("fleet", "server"), _sums_have_one_server),
    Check(("fleet", "method.aggregation"), _enough_clients),
    Check(("fleet", "method.concurrency", "method.aggregation"), _concurrency),
    Check(("data",), _data_is_there),
    Check(("data", "fleet"), _enough_examples),
    Check(("data", "evaluate"), _tests_are_there),
    Check(("data", "fleet", "hosting"), _silos_are_the_clients),
    Check(("data", "method.correction"), _tutor_has_inputs),
    Check(("clock", "method.correction"), _teacher_is_known),
    Check(
        ("data", "model", "fleet", "method.training", "method.workload", "topology"), _model_fits
    ),
    Check(("fleet", "faults"), _faults_name_clients),
)
