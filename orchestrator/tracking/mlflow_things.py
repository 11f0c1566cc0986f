"""What does MLflow get of a run that is neither a setting nor a figure?

The data set that it was trained on, its clients as a table, and its models. Nothing here imports
MLflow: `mlflow_store` does, and `Things` works with what it has connected. Every method may raise
and may be called again.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.tracking.outbox import Data
from orchestrator.tracking.served import package
from orchestrator.tracking.trained import FOLDER, Card, Kept, Which, read_card
from policies.types import ExperimentError

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS: Final = 10_000
"""Clients in the table that a run's page shows; `clients.parquet` has all."""
MODEL_TYPE: Final = "latecomer"
_TABLES_TAG: Final = "mlflow.loggedArtifacts"
_WHENCE: Final = ("mlflow.user", "mlflow.source.name")
_FOR_GOOD: Final = {
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "NOT_IMPLEMENTED",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Errors that do not go away."""
_OF_A_VERSION: Final = ("accuracy", "loss")


class Things:
    """The part of a store that sends what is no figure."""

    _client: Any
    _entities: Any
    _note: Callable[[str], None]

    def send_data(self, run_id: str, data: Data) -> None:
        """Link the data set to the run; once more changes nothing."""
        made = self._entities.Dataset(
            data.name, data.digest, "code", data.source, data.outline, data.profile
        )
        context = self._entities.InputTag("mlflow.data.context", "training")
        with self._noting("the data set"):
            self._client.log_inputs(run_id, [self._entities.DatasetInput(made, [context])])

    def send_table(self, run_id: str, path: Path) -> None:
        """Send a Parquet file's rows in the form that a run's page shows as a table."""
        import pandas as pd  # noqa: PLC0415  reading an experiment file imports this module

        if not path.exists():
            self._note(f"{path} is gone and was not sent to MLflow")
            return
        with tempfile.TemporaryDirectory() as folder:
            shown = Path(folder) / f"{path.stem}.json"
            shown.write_text(table(pd.read_parquet(path)), encoding="utf-8")
            self._client.log_artifact(run_id, str(shown))
        tables = [{"path": shown.name, "type": "table"}]
        self._client.set_tag(run_id, _TABLES_TAG, json.dumps(tables))

    def send_model(self, run_id: str, out: Path, name: str) -> None:
        """Make a run's model one of MLflow's models, or finish one that was begun.

        Args:
            run_id: That it came of.
            out: The run's folder.
            name: Of one of its models.
        """
        with self._noting(f"model {name}"):
            source = out / FOLDER
            card = read_card(source)
            which = card.named(name)
            self._send_model(run_id, source, card, which)

    def _send_model(self, run_id: str, source: Path, card: Card, which: Which) -> None:
        kept = card.versions[which]
        run = self._client.get_run(run_id)
        model = self._begun(run, f"{_taken(card.name)}-{which}", kept)
        if model.status == self._entities.LoggedModelStatus.READY:
            return
        linked = {output.model_id for output in run.outputs.model_outputs} if run.outputs else ()
        if model.model_id not in linked:
            output = self._entities.LoggedModelOutput(model.model_id, kept.version)
            self._client.log_outputs(run_id, [output])
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / which
            package(source, which, target, model_id=model.model_id, run_id=run_id)
            self._client.log_model_artifacts(model.model_id, str(target))
        self._client.log_batch(run_id, metrics=self._figures(run, model.model_id, kept))
        self._client.finalize_logged_model(model.model_id, self._entities.LoggedModelStatus.READY)

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Turn what would fail again and again into a note: an old server knows no models."""
        try:
            yield
        except ExperimentError as error:
            self._note(f"MLflow did not get {what}: {error}")
        except Exception as error:
            if getattr(error, "error_code", "") not in _FOR_GOOD:
                raise
            self._note(f"MLflow refused {what}: {str(error)[:300]}")

    def _begun(self, run: Any, name: str, kept: Kept) -> Any:
        """Return the model that an earlier try has made, or a new one."""
        experiment, run_id = run.info.experiment_id, run.info.run_id
        known = f"source_run_id = '{run_id}' AND name = '{name}'"
        found = self._client.search_logged_models([experiment], filter_string=known)
        if found:
            return found[0]
        return self._client.create_logged_model(
            experiment,
            name,
            source_run_id=run_id,
            tags={name: run.data.tags[name] for name in _WHENCE if name in run.data.tags},
            params={"version": str(kept.version), "lineage": str(kept.lineage)},
            model_type=MODEL_TYPE,
        )

    def _figures(self, run: Any, model_id: str, kept: Kept) -> list[Any]:
        """Return what the test of a model's version found, as figures of the model."""
        inputs = run.inputs.dataset_inputs if run.inputs else ()
        about = {"model_id": model_id, "run_id": run.info.run_id}
        for given in inputs[:1]:
            about |= {"dataset_name": given.dataset.name, "dataset_digest": given.dataset.digest}
        return [
            self._entities.Metric(name, entry.value, entry.timestamp, entry.step, **about)
            for name in _OF_A_VERSION
            for entry in self._client.get_metric_history(run.info.run_id, name)
            if entry.step == kept.version and entry.model_id is None
        ]


def table(clients: pd.DataFrame) -> str:
    """Return rows as MLflow's pages read a table.

    Of more than `MOST_ROWS` these are the ones with the most updates in the model.
    """
    if len(clients) > MOST_ROWS:
        busiest = clients.sort_values("committed", ascending=False, kind="stable")
        clients = busiest.head(MOST_ROWS).sort_index()
    return str(clients.to_json(orient="split", index=False, double_precision=6))


def _taken(name: str) -> str:
    """Return a name that MLflow takes for a model."""
    return re.sub(r"[^\w-]", "_", name)
