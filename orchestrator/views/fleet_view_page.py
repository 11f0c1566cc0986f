"""What does one page say about a fleet?

It stands alone as a run's report does, in the same style, and the same fleet writes the same
bytes. How this machine would host it is no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orchestrator.views import fleet_view_pictures as pictures
from orchestrator.views import fleet_view_tables as tables
from orchestrator.views.fleet_view import FleetView
from orchestrator.views.pages import Part, Rows, Tile, render
from orchestrator.views.pictures import style
from orchestrator.views.readable import BYTES, TIME, count, human
from orchestrator.views.sheets import Sheet


def page(view: FleetView) -> str:
    """Return the page."""
    with style():
        parts = [_devices(view), _links(view), *_cells(view), _day(view), _work(view)]
        parts += [*_exchanges(view), _dense(view), *_late(view), _data(view)]
    return render(
        "fleet.html.j2",
        title=f"The fleet of {view.experiment.name}",
        tiles=_tiles(view),
        findings=view.findings,
        sentences=list(tables.sentences(view)),
        parts=parts,
    )


def _tiles(view: FleetView) -> list[Tile]:
    """Return the headline."""
    low, high = (f"{100 * n / view.clients:.0f}" for n in (view.day.least, view.day.most))
    there = f"{high} %" if low == high else f"{low} to {high} %"
    profiles = len(pictures.profiles(view))
    clients = np.array([group.members.size for group in view.groups])
    medians = np.array([one.total_s.median for one in view.work])
    tiles = [
        Tile(
            "Clients",
            count(view.clients),
            "of one profile" if profiles == 1 else f"of {profiles} profiles",
        ),
        Tile("There at a time", there, "over the first day"),
        Tile("Model", human(view.carried.down, BYTES), f"{view.parameters:,} parameters"),
    ]
    if view.data is not None:
        usual = float(np.median(np.repeat(medians, clients)))
        low, middle, high = (count(value) for value in view.data.examples)
        around = "each" if low == high else f"median; {low} to {high}"
        tiles += [
            Tile("One assignment", human(usual, TIME), "of the median client"),
            Tile("Examples of an update", middle, around),
        ]
    return tiles


def _devices(view: FleetView) -> Part:
    title, drawn, clients = "Speed against link", view.dots.clients.size, view.clients
    rows = _rows(tables.devices(view))
    if pictures.all_alike(view):
        return Part(title, "All clients are alike in speed and link.", rows=rows)
    lead = "A dot is a client."
    if drawn < clients:
        lead = f"A dot is a client; {drawn:,} of {clients:,} are drawn, some of every kind."
    if view.data is not None and view.data.sizes.min() < view.data.sizes.max():
        lead += " Its area grows with its examples."
    return Part(
        title,
        lead,
        pictures.speed_and_link(view),
        rows=rows,
        note="Speed over the clients: median, least and most.",
    )


def _links(view: FleetView) -> Part:
    return Part(
        "Links",
        rows=_rows(tables.links(view)),
        note="Over clients and moments of a day: median, 5 % and 95 %.",
    )


def _cells(view: FleetView) -> Iterator[Part]:
    if view.cells:
        sheet = tables.cells(view)
        yield Part(
            sheet.title,
            "A cell sums the updates of its clients near them.",
            rows=_rows(sheet),
            note="Up and down: a model with every parameter in float32 over the backhaul.",
        )


def _day(view: FleetView) -> Part:
    title, rows = "Who is there over a day", _rows(tables.presence(view))
    if view.day.whole:
        return Part(title, "All clients are there all day.", rows=rows)
    lead = "Share of all clients, once a quarter of an hour; virtual time begins at hour 0."
    return Part(title, lead, pictures.over_the_day(view), rows=rows)


def _work(view: FleetView) -> Part:
    lead = (
        "For a client that holds no model yet and stays until it is done. Beside a bar: median "
        "and 95 % of the whole with the least payload."
    )
    drawn = pictures.assignments(view)
    return Part("One assignment", lead, drawn, rows=_rows(tables.assignment(view)))


def _exchanges(view: FleetView) -> Iterator[Part]:
    if view.split:
        sheet = tables.exchanges(view)
        yield Part(
            sheet.title,
            "The first assignment of a client that is alone at the encoder.",
            rows=_rows(sheet),
            note="Medians. Bytes up and down: with the least update, the model, and what is sent "
            "once.",
        )


def _dense(view: FleetView) -> Part:
    sheet = tables.dense(view)
    return Part(sheet.title, "If the update holds every parameter in float32.", rows=_rows(sheet))


def _late(view: FleetView) -> Iterator[Part]:
    if view.corrects:
        sheet = tables.late(view)
        yield Part(
            sheet.title,
            "If a newer version is published when its training ends, and its client corrects the "
            "update by that one.",
            rows=_rows(sheet),
            note="If the whole model must be sent again; a downlink of differences takes less.",
        )


def _data(view: FleetView) -> Part:
    found, title = view.data, "Data by class"
    if found is None:
        return Part(title, "Not known before the silos join.")
    lead = ""
    if not found.whole:
        lead = f"Of {found.sampled.size:,} of {found.sizes.size:,} clients, evenly taken. "
    if found.sizes.size > pictures.BARS:
        lead += "The stronger the colour, the larger the class's share of the client's examples."
        if found.labels.shape[1] > pictures.ROWS:
            lead += f" The {pictures.ROWS} most frequent classes."
    rows = _rows(tables.data(found, view.shape.classes))
    return Part(title, lead, pictures.by_class(found), rows=rows)


def _rows(sheet: Sheet) -> Rows:
    return Rows(sheet.columns, sheet.cells, sheet.words)
