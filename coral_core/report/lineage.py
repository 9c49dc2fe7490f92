"""The champion's ancestors as a small drawing: a row per generation, the oldest on top."""

from collections.abc import Sequence
from dataclasses import dataclass

from coral_core.report.content import Ancestor

MOST = 36
"""Ancestors drawn; of a longer lineage the latest. The table beside the drawing has them all."""
WIDE, HIGH, GAP_X, GAP_Y = 132, 40, 18, 34


@dataclass(frozen=True)
class Node:
    """One genome in the drawing; x and y are its upper left corner."""

    ancestor: Ancestor
    x: int
    y: int


@dataclass(frozen=True)
class Edge:
    """From the lower middle of a parent to the upper middle of a child."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Drawing:
    """Everything that the template needs, in its own units."""

    width: int
    height: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    left_out: int


def drawing(lineage: Sequence[Ancestor]) -> Drawing | None:
    """Where everything goes; None without a lineage."""
    kept = list(lineage[-MOST:])
    if not kept:
        return None
    rows: dict[str, list[Ancestor]] = {}
    for ancestor in kept:
        rows.setdefault(ancestor.genome_id.split("-")[0], []).append(ancestor)
    most = max(map(len, rows.values()))
    width = most * WIDE + (most - 1) * GAP_X + 2
    nodes: dict[str, Node] = {}
    for number, row in enumerate(rows.values()):
        start = (width - (len(row) * WIDE + (len(row) - 1) * GAP_X)) // 2
        for column, ancestor in enumerate(row):
            nodes[ancestor.genome_id] = Node(ancestor, start + column * (WIDE + GAP_X), 1 + number * (HIGH + GAP_Y))
    edges = [
        Edge(parent.x + WIDE // 2, parent.y + HIGH, node.x + WIDE // 2, node.y)
        for node in nodes.values()
        for name in dict.fromkeys(node.ancestor.parents)
        if (parent := nodes.get(name)) is not None
    ]
    height = len(rows) * (HIGH + GAP_Y) - GAP_Y + 2
    return Drawing(width, height, tuple(nodes.values()), tuple(edges), len(lineage) - len(kept))
