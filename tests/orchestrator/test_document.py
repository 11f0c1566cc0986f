"""Does the reader of experiment files name every mistake, with its line, and nothing else?"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveInt,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from orchestrator.document import Check, Document, ExperimentFileError, to_yaml
from orchestrator.fleet import FleetSettings
from policies.base import Policy, Settings, open_union
from policies.units import Bytes, Seconds


class Shade(StrEnum):
    RED = "red"
    BLUE = "blue"


class Aggregation(Policy):
    pass


class FedAvg(Aggregation):
    kind: Literal["fedavg"] = "fedavg"
    cohort: PositiveInt = 4


class FedBuff(Aggregation):
    kind: Literal["fedbuff"] = "fedbuff"
    size: PositiveInt = 4
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Outside(Aggregation):
    kind: str = "orchestrator_test_outside:Outside"
    size: PositiveInt = 1


AnyAggregation = Annotated[
    Annotated[FedAvg | FedBuff, Field(discriminator="kind")],
    WrapValidator(open_union(Aggregation)),
]


class Method(Settings):
    aggregation: Annotated[AnyAggregation, Field(default_factory=FedBuff)]
    rate: NonNegativeFloat = 0.1
    budget: Bytes | None = None
    every: Literal["never"] | PositiveInt = "never"


class Experiment(Settings):
    name: Annotated[str, Field(min_length=1, pattern="^[a-z]+$")]
    seed: int = 0
    fast: bool = False
    shade: Shade = Shade.RED
    wait: Seconds = 1.5
    method: Method
    chain: tuple[AnyAggregation, ...] = ()
    named: Annotated[dict[str, AnyAggregation], Field(default_factory=dict)]
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=3)] = (1,)
    note: str | None = None

    @field_validator("seed")
    @classmethod
    def _even(cls, seed: int) -> int:
        if seed % 2:
            raise ValueError(f"must be even, got {seed}. Add 1.")
        return seed

    @field_validator("note")
    @classmethod
    def _short(cls, note: str | None) -> str | None:
        assert note is None or len(note) < 40, "must be short. Cut it."
        if note == "custom":
            raise PydanticCustomError("custom", "{word} will not do", {"word": note})
        return note

    @model_validator(mode="after")
    def _whole(self) -> Experiment:
        if self.name == "forbidden":
            raise ValueError("this name is taken. Choose another.")
        return self


VALID = """\
name: quick
seed: 6
fast: true
shade: blue
wait: 2 min
method:
  aggregation:
    kind: fedbuff
    size: 3
  rate: 0.5
  budget: 50 MB
  every: 10
chain:
  - {kind: fedavg, cohort: 2}
  - kind: fedbuff
named:
  a: {kind: fedbuff, alpha: 0.25}
layers: [1, 2]
note: hello
"""


def outcome(text: str, sets: Iterable[str], checks: Iterable[Check]) -> Experiment | str:
    """Return what a file gives: the experiment or the message. Any other error is a bug."""
    try:
        document = Document.parse(text, "x.yaml")
        document.override([*sets], Experiment)
        return document.validate(Experiment, [*checks])
    except ExperimentFileError as error:
        return str(error)


def complaints(text: str, *, sets: Iterable[str] = (), checks: Iterable[Check] = ()) -> list[str]:
    """Return the lines of the error that a file brings."""
    found = outcome(text, sets, checks)
    assert isinstance(found, str), f"no mistake found: {found}"
    return found.splitlines()


def complaint(extra: str, *, base: str = "name: quick\nmethod: {}\n", **more: Any) -> str:
    """Return the one line of the error that `extra`, put under `base`, brings."""
    (line,) = complaints(base + extra, **more)
    return line


# ------------------------------------------------------------------ what is right


def test_a_valid_file() -> None:
    """A file without mistakes becomes the model that it describes."""
    experiment = Document.parse(VALID, "x.yaml").validate(Experiment)
    assert experiment.method == Method(
        aggregation=FedBuff(size=3), rate=0.5, budget=50_000_000, every=10
    )
    assert experiment.chain == (FedAvg(cohort=2), FedBuff())
    assert (experiment.wait, experiment.shade, experiment.layers) == (120.0, Shade.BLUE, (1, 2))


def test_plain_data() -> None:
    """The document holds plain Python values: YAML 1.2, dates as text, names as text."""
    text = (
        "a: yes\nb: 2020-01-01\nc: 1e3\nd: .inf\ne: ~\n7: 0x10\ng: ['1', 1.50]\nh: &h {x: 1}\ni: *h"
    )
    data = Document.parse(text, "x").data
    assert data == {
        "a": "yes",
        "b": "2020-01-01",
        "c": 1000.0,
        "d": float("inf"),
        "e": None,
        "7": 16,
        "g": ["1", 1.5],
        "h": {"x": 1},
        "i": {"x": 1},
    }
    assert [type(value) for value in data["g"]] == [str, float]


def test_read_a_file(tmp_path: Path) -> None:
    """A file on disk is called by its name; one that cannot be read says why."""
    path = tmp_path / "mine.yaml"
    path.write_text("name: Quick\nmethod: {}\n", encoding="utf-8")
    with pytest.raises(ExperimentFileError, match=r"^mine\.yaml:1: name must match the pattern"):
        Document.read(path).validate(Experiment)
    with pytest.raises(ExperimentFileError, match="cannot be read: No such file"):
        Document.read(tmp_path / "none.yaml")
    path.write_bytes(b"name: \xff")
    with pytest.raises(ExperimentFileError, match="is no UTF-8 text"):
        Document.read(path)


# ------------------------------------------------------------------ what is no YAML


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml:1: is empty"),
        ("# only this\n", "x.yaml:1: is empty"),
        ("- a\n", "x.yaml:1: must hold names and values such as `name: my-experiment`, got a list"),
        ("\n\nplain\n", "x.yaml:3: must hold names and values"),
        ("a:\n\tb: 1\n", "x.yaml:2: a tab cannot indent"),
        ("a: 1\n b: 2\n", "x.yaml:2: is no YAML: a second colon, or an indent"),
        ("a: 1\nb: [1\n", "x.yaml:2: is no YAML: expected ',' or ']'"),
        ("a: *b\n", "x.yaml:1: is no YAML: found undefined alias 'b'"),
        ("---\na: 1\n---\nb: 1\n", "x.yaml:3: is no YAML: a second document"),
        ("a: 1\nb: \x00\n", "x.yaml:2: holds a character that YAML does not allow"),
        ("[" * 3000, "x.yaml:1: is nested too deeply"),
    ],
)
def test_no_yaml(text: str, expected: str) -> None:
    """What is no YAML mapping is one clear message with its line."""
    (line,) = complaints(text)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("seed: 2\nseed: 4\n", "x.yaml:4: seed is given twice, first in line 3. Keep one."),
        ("note: !mine x\n", "x.yaml:3: note has the unknown tag !mine. Remove the tag."),
        ("layers: !!set {a}\n", "x.yaml:3: layers has the unknown tag tag:yaml.org,2002:set."),
        ("seed: !!int foo\n", "x.yaml:3: seed cannot be read as int: 'foo'."),
        ("? [1]\n: 2\n", "x.yaml:3: a name in the file must be plain text."),
        ("named: &a\n  b: *a\n", "x.yaml:4: named.b contains itself."),
        ("seed: " + "9" * 5000, "x.yaml:3: seed cannot be read as int: '9999"),
    ],
)
def test_odd_yaml(extra: str, expected: str) -> None:
    """YAML that has no plain value is one mistake at its line, and only one."""
    assert complaint(extra).startswith(expected)


def test_many_aliases_do_not_explode() -> None:
    """Aliases of aliases are cut off before they fill the memory."""
    lines = ["a0: &a0 [1, 2]"] + [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)
    ]
    assert any("holds more than 100,000 values" in line for line in complaints("\n".join(lines)))


# ------------------------------------------------------------------ what is no experiment


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("sed: 1\n", "3: sed is no known name. Did you mean seed?"),
        (
            "zzz: 1\n",
            "3: zzz is no known name. Known here: name, seed, fast, shade, wait, method, chain",
        ),
        ("seed: 1\n", "3: seed must be even, got 1. Add 1."),
        ("seed: x\n", "3: seed must be a whole number, got 'x'."),
        ("seed: 1.5\n", "3: seed must be a whole number, got 1.5."),
        ("seed: [1]\n", "3: seed must be a whole number, got a list of 1."),
        ("seed:\n", "3: seed must be a whole number, got nothing."),
        ("fast: 7\n", "3: fast must be true or false, got 7."),
        ("fast: [7]\n", "3: fast must be true or false, got a list of 1."),
        ("shade: rde\n", "3: shade has no choice 'rde'. Did you mean red?"),
        ("shade: 9\n", "3: shade has no choice 9. Choose one of red, blue."),
        ("wait: 2 hrs\n", "3: wait must be a number of seconds or text such as '15 min', got"),
        ("wait: -1\n", "3: wait must be at least 0, got -1."),
        ("layers: []\n", "3: layers must have at least 1 entry, got a list of 0."),
        ("layers: [1, 2, 3, 4]\n", "3: layers must have at most 3 entries, got a list of 4."),
        ("layers: [1,\n 0]\n", "4: layers.1 must be at least 1, got 0."),
        ("layers: 1\n", "3: layers must be a list, got 1."),
        ("named: 1\n", "3: named must be a group of settings, got 1."),
        ("note: 1\n", "3: note must be text, got 1."),
        (f"note: {'x' * 50}\n", "3: note must be short. Cut it."),
        ("note: custom\n", "3: note: custom will not do."),
        (
            "chain:\n- kind: fedavg\n  size: 3\n",
            "5: chain.0.size is no known name. Known here: kind",
        ),
        (
            "chain:\n- kind: fedbuf\n",
            "4: chain.0.kind has no choice 'fedbuf'. Did you mean fedbuff?",
        ),
        ("chain:\n- kind: zzz\n", "4: chain.0.kind has no choice 'zzz'. Choose one of fedavg, fed"),
        ("chain:\n- kind: 3\n", "4: chain.0.kind has no choice 3. Choose one of fedavg, fedbuff."),
        ("chain:\n- kind:\n", "4: chain.0.kind has no choice nothing. Choose one of fedavg, fedbu"),
        ("chain:\n- size: 3\n", "4: chain.0.kind is missing. Choose one of fedavg, fedbuff."),
        (
            "chain:\n- fedavg\n",
            "4: chain.0 must be a group of settings, got 'fedavg'. Write {kind: f",
        ),
        (
            "named:\n  a:\n    kind: fedbuff\n    alpha: 1\n",
            "6: named.a.alpha must be less than 1, g",
        ),
        (
            "named:\n  fedbuff: {kind: fedbuff, size: 0}\n",
            "4: named.fedbuff.size must be at least 1",
        ),
        (
            "chain: [{kind: 'nope:X'}]\n",
            "3: chain.0: nope:X cannot be imported: ModuleNotFoundError",
        ),
        (
            "chain: [{kind: 'os:PathLike'}]\n",
            "3: chain.0: os:PathLike must be a class derived from",
        ),
    ],
)
def test_mistake(extra: str, expected: str) -> None:
    """A mistake is one message: its line, its path, the rule, what was given, the way out."""
    assert complaint(extra).startswith(f"x.yaml:{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: quick\nmethod: {every: 0}\n",
            "2: method.every must be one of never or at least 1, g",
        ),
        (
            "name: quick\nmethod: {every: x}\n",
            "2: method.every must be one of never or a whole number",
        ),
        ("name: quick\nmethod:\n  rate: -1\n", "3: method.rate must be at least 0, got -1."),
        ("name: quick\nmethod: 3\n", "2: method must be a group of settings, got 3."),
        ("seed: 2\nname: quick\n", "1: method is missing. Add it."),
        ("nmae: quick\nmethod: {}\n", "1: nmae is no known name. Did you mean name?"),
        ("name: ''\nmethod: {}\n", "1: name must have at least 1 characters, got ''."),
        ("name: forbidden\nmethod: {}\n", "1: this name is taken. Choose another."),
    ],
)
def test_mistake_above(text: str, expected: str) -> None:
    """What is missing takes the line of what it is missing from; a union is one mistake."""
    assert complaint("", base=text).startswith(f"x.yaml:{expected}")


def test_a_kind_may_be_called_like_a_field() -> None:
    """What pydantic puts into the path of a union never passes for a name of the file."""

    class Size(Aggregation):
        kind: Literal["size"] = "size"
        size: PositiveInt = 1

    class Holder(Settings):
        inner: Annotated[FedAvg | Size, Field(discriminator="kind")]

    text = "inner:\n  kind: size\n  size: 0\n  sized: 1\n"
    expected = r"^x:3: inner\.size must be at least 1, got 0\.\nx:4: inner\.sized is no known name"
    with pytest.raises(ExperimentFileError, match=expected):
        Document.parse(text, "x").validate(Holder)


def test_own_policy_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of the user's own is checked like ours: its names, its lines."""
    module = type("Module", (), {"Outside": Outside})
    monkeypatch.setitem(__import__("sys").modules, "orchestrator_test_outside", module)
    kind = "orchestrator_test_outside:Outside"
    text = f"name: quick\nmethod:\n  aggregation:\n    kind: {kind}\n    size: 0\n    sice: 1\n"
    assert complaints(text) == [
        "x.yaml:5: method.aggregation.size must be at least 1, got 0.",
        "x.yaml:6: method.aggregation.sice is no known name. Did you mean size?",
    ]
    good = Document.parse(text.replace("0", "2").replace("    sice: 1\n", ""), "x")
    experiment = good.validate(Experiment)
    assert experiment.method.aggregation == Outside(size=2)
    assert Document.parse(to_yaml(experiment), "y").validate(Experiment) == experiment


def test_ten_mistakes_at_once() -> None:
    """Ten mistakes of all sorts, also across sections, are ten lines in the order of the file."""
    text = """\
name: quick
seed: 3
shade: green
method:
  agregation: {kind: fedavg}
  aggregation:
    kind: fedbuff
    size: 0
  rate: fast
  every: 10
chain:
  - {kind: fedbuf}
layers: [5, 1]
fast: true
fast: false
wait: 1 hour
note: fine
"""

    def too_long(layers: tuple[int, ...], every: Any) -> Iterable[tuple[str, str]]:
        if layers[0] > 4:
            yield "layers.0", f"must be at most 4, got {layers[0]}."
        if every == 10:
            yield "method.every", "must be 5."

    found = complaints(text, checks=[Check(("layers", "method.every"), too_long)])
    assert [(line.split(":")[1], line.split()[1]) for line in found] == [
        ("2", "seed"),
        ("3", "shade"),
        ("5", "method.agregation"),
        ("8", "method.aggregation.size"),
        ("9", "method.rate"),
        ("10", "method.every"),
        ("12", "chain.0.kind"),
        ("13", "layers.0"),
        ("15", "fast"),
        ("16", "wait"),
    ]


# ------------------------------------------------------------------ checks across sections


def test_checks_run_when_their_sections_are_valid() -> None:
    """A check sees valid sections or defaults; it waits where one of its own has a mistake."""
    seen: list[tuple[Any, ...]] = []

    def look(*sections: Any) -> Iterable[tuple[str, str]]:
        seen.append(sections)
        return [("layers", "must rhyme.")]

    checks = [Check(needs, look) for needs in (("layers", "wait"), ("seed",), ("method.rate",))]
    checks.append(Check(("method.aggregation.size", "named"), look))
    text = "name: quick\nlayers: [3]\nseed: 1\nmethod: {rate: -1, zzz: 1}\n"
    found = complaints(text, checks=checks)
    assert seen == [((3,), 1.5), (4, {})]
    assert found[0] == "x.yaml:2: layers must rhyme."
    assert len(found) == 4
    seen.clear()
    assert complaints(VALID, checks=checks) == ["x.yaml:18: layers must rhyme."]
    assert [sections[0] for sections in seen] == [(1, 2), 6, 0.5, 3]


def test_a_check_that_finds_nothing() -> None:
    """Checks that hold leave the model alone."""
    check = Check(("seed", "name"), lambda seed, name: [] if (seed, name) else [("seed", "must.")])
    assert Document.parse(VALID, "x").validate(Experiment, [check]).seed == 6


def test_profiles_of_a_fleet_have_lines() -> None:
    """An unknown device has the line of its own entry."""
    text = "clients: 3\nmix:\n  - {profile: workstation}\n  - share: 2\n    profile: budget-fone\n"
    with pytest.raises(
        ExperimentFileError, match=r"^x:5: mix\.1\.profile is no known profile: bud"
    ):
        Document.parse(text, "x").validate(FleetSettings)


# ------------------------------------------------------------------ --set


def assigned(*sets: str, text: str = VALID) -> tuple[Experiment, list[str]]:
    document = Document.parse(text, "x.yaml")
    notes = document.override(sets, Experiment)
    return document.validate(Experiment), notes


def test_set_values() -> None:
    """Values are YAML; missing groups and lists are made; a list takes an index."""
    bare = "name: quick\nmethod:\n"
    experiment, notes = assigned(
        "seed=8", "method.rate=1e-3", "layers.0=7", "layers.1=9", "named.b.kind=fedavg",
        "chain.0.kind=fedavg", "chain.0.cohort=9", "note='a=b'", text=bare,
    )  # fmt: skip
    assert (experiment.seed, experiment.method.rate, experiment.note) == (8, 0.001, "a=b")
    assert (experiment.layers, experiment.named) == ((7, 9), {"b": FedAvg()})
    assert (experiment.chain, notes) == ((FedAvg(cohort=9),), [])
    assert assigned("chain.1.size=9")[0].chain[1] == FedBuff(size=9)
    assert assigned("chain=[{kind: fedavg}]")[0].chain == (FedAvg(),)


def test_set_kind_drops_what_the_new_kind_lacks() -> None:
    """Setting a kind drops the fields that it lacks, and says so; the same kind drops nothing."""
    text = VALID.replace("    size: 3\n", "    size: 3\n    alpha: 0.1\n")
    experiment, notes = assigned("method.aggregation.kind=fedavg", text=text)
    assert experiment.method.aggregation == FedAvg()
    assert notes == ["method.aggregation: dropped size, alpha: fedavg has no such fields"]
    assert assigned("method.aggregation.kind=fedbuff")[1] == []
    assert assigned("chain.0.kind=fedbuff", "chain.0.size=2")[0].chain[0] == FedBuff(size=2)


def test_set_below_a_default_keeps_its_kind() -> None:
    """Where the file is silent, a setting goes to the kind that is the default."""
    experiment, _ = assigned("method.aggregation.size=9", text="name: quick\nmethod: {}\n")
    assert experiment.method.aggregation == FedBuff(size=9)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("seed", "--set seed: must be name.name=value."),
        ("=3", "--set =3: must be name.name=value."),
        ("a..b=3", "--set a..b=3: must be name.name=value."),
        ("seed.x=3", "--set seed.x=3: seed is 6 and holds no x. Set seed itself."),
        (
            "layers.x=3",
            "--set layers.x=3: layers is a list of 2 and needs an index from 0 to 2, got x.",
        ),
        ("layers.3=3", "--set layers.3=3: layers is a list of 2 and needs an index"),
        ("layers=[1", "--set layers=[1: is no YAML: expected ',' or ']'"),
        ("seed=3", "--set seed=3: seed must be even, got 3. Add 1."),
        ("sed=3", "--set sed=3: sed is no known name. Did you mean seed?"),
        (
            "method.aggregation.kind=fedbuf",
            "--set method.aggregation.kind=fedbuf: method.aggregation.",
        ),
    ],
)
def test_set_mistake(assignment: str, expected: str) -> None:
    """A mistake that came by --set says so in place of a line."""
    (line,) = complaints(VALID, sets=[assignment])
    assert line.startswith(expected)


def test_random_assignments() -> None:
    """Whatever is typed after --set gives an experiment or an ExperimentFileError."""
    rng = random.Random(3)
    names = ["method", "aggregation", "kind", "chain", "layers", "named", "0", "1", "9", "x", ""]
    values = ["", "3", "fedavg", "{kind: fedavg}", "[1]", "[", "a:b", "null", "os:path", "{[1]: 2}"]
    for _ in range(1000):
        sets = [
            f"{'.'.join(rng.choices(names, k=rng.randint(1, 4)))}={rng.choice(values)}"
            for _ in range(rng.randint(1, 3))
        ]
        found = outcome(VALID, sets, [])
        assert not isinstance(found, str) or "--set" in found


# ------------------------------------------------------------------ writing

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
aggregations = st.builds(FedAvg, cohort=st.integers(1, 10**20)) | st.builds(
    FedBuff, size=st.integers(1, 9), alpha=st.floats(0, 0.999)
)


@given(
    st.builds(
        Experiment,
        name=st.just("quick"),
        seed=st.integers(-50, 50).map(lambda n: 2 * n),
        shade=st.sampled_from(Shade),
        wait=st.floats(0, 1e20),
        method=st.builds(
            Method,
            aggregation=aggregations,
            rate=st.floats(0, allow_infinity=True),
            budget=st.none() | st.integers(0, 10**15),
            every=st.just("never") | st.integers(1, 9),
        ),
        chain=st.lists(aggregations, max_size=3).map(tuple),
        named=st.dictionaries(words, aggregations, max_size=3),
        note=st.none() | words.filter(lambda word: word != "custom"),
    )
)
def test_yaml_reads_back_equal(experiment: Experiment) -> None:
    """What is written reads back as the same experiment, whatever the text in it."""
    text = to_yaml(experiment)
    assert Document.parse(text, "x").validate(Experiment) == experiment


def test_yaml_by_eye() -> None:
    """The resolved file has every field in the order of the class, small groups on one line."""
    assert (
        to_yaml(Document.parse("name: quick\nmethod: {}\n", "x").validate(Experiment))
        == """\
name: quick
seed: 0
fast: false
shade: red
wait: 1.5
method:
  aggregation: {kind: fedbuff, size: 4, alpha: 0.5}
  rate: 0.1
  budget: null
  every: never
chain: []
named: {}
layers: [1]
note: null
"""
    )


# ------------------------------------------------------------------ whatever comes


def mutated(rng: random.Random) -> str:
    """Return the valid file with one to four random damages."""
    text = VALID
    for _ in range(rng.randint(1, 4)):
        at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        lines = text.splitlines(keepends=True)
        line = rng.randrange(len(lines)) if lines else 0
        noise = "".join(rng.choices(string.printable + "é\x00\ud800&*!:{}[]", k=rng.randint(1, 5)))
        token = rng.choice(
            ["null", "[]", "{}", "-1", "1e999", "&a", "*a", "!!int ", "<<: ", "'", "\t"]
        )
        text = rng.choice([
            text[:at] + noise + text[at:],
            text[:at] + token + text[at:],
            text[:at] + text[min(to, at + 9):],
            "".join(lines[:line] + lines[line + 1 :]),
            "".join([*lines[:line], *lines[line : line + 1] * 2, *lines[line + 1 :]]),
            "".join(["  " + one if n == line else one for n, one in enumerate(lines)]),
            "".join(rng.sample(lines, len(lines))),
        ])  # fmt: skip
    return text


def test_two_thousand_mutations() -> None:
    """Whatever happens to a file, it gives an experiment or an ExperimentFileError with lines."""
    rng = random.Random(7)
    check = Check(("method.aggregation", "layers"), lambda *_: [])
    outcomes = {"model": 0, "error": 0}
    for _ in range(2000):
        found = outcome(mutated(rng), [], [check])
        if isinstance(found, str):
            assert all(line.startswith("x.yaml:") for line in found.splitlines())
        outcomes["error" if isinstance(found, str) else "model"] += 1
    assert min(outcomes.values()) > 50
