"""Tokens after one prompt as a tree: what several requests have in common is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROOT = 0


class TokenTree:
    """Token sequences after a prompt; equal beginnings share their nodes.

    The root is the prompt's last token, which predicts the first token of an answer. Nodes are numbered in the order in
    which they are added, so every node comes after its parent. As in the token trees of SpecInfer (Miao et al. 2023,
    arXiv 2305.09781), one forward pass computes all nodes, each of which attends to itself and to those it follows.

    Attributes:
        tokens: of all nodes but the root.
        depths: of all nodes; 0 for the root.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths = [0]
        self._parents = [ROOT]
        self._children: list[dict[int, int]] = [{}]

    def __len__(self) -> int:
        return len(self.depths)

    def add(self, tokens: Iterable[int], node: int = ROOT) -> int:
        """Add tokens after a node, as far as they are not there yet; return the node of the last one."""
        for token in tokens:
            child = self._children[node].get(token)
            if child is None:
                child = self._children[node][token] = len(self)
                self._children.append({})
                self._parents.append(node)
                self.depths.append(self.depths[node] + 1)
                self.tokens.append(token)
            node = child
        return node

    def child(self, node: int, token: int) -> int | None:
        """Return the node of a token after another one; None where it was not added."""
        return self._children[node].get(token)

    def visible(self) -> npt.NDArray[np.bool_]:
        """Return which nodes each node attends to, (nodes, nodes): itself and those it follows."""
        visible = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self._parents):
            visible[node] |= visible[parent]
        return visible

    def after(self, nodes: Iterable[int]) -> list[int]:
        """Return these nodes and all that follow them, in order."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[list(nodes)] = True
        for node, parent in enumerate(self._parents):
            chosen[node] |= chosen[parent]
        return [int(node) for node in np.flatnonzero(chosen)]


@dataclass(frozen=True)
class TreeLayout:
    """How prompts and their trees lie in the rows of one forward pass; what all prompts share is in the cache before.

    Attributes:
        visible: (rows, tokens, columns of the cache), True where a token attends to a column. Padding sees the first.
        position_ids: (rows, tokens).
        roots: position of the root of each row's tree in the pass; node n is n tokens later.
    """

    visible: npt.NDArray[np.bool_]
    position_ids: npt.NDArray[np.int64]
    roots: list[int]


def lay_out(rows: Sequence[tuple[int, TokenTree]], shared: int) -> TreeLayout:
    """Lay out rows of prompt lengths and trees, without the first `shared` tokens of the prompts."""
    width = max(length + len(tree) - 1 for length, tree in rows) - shared
    visible = np.zeros((len(rows), width, shared + width), dtype=bool)
    position_ids = np.zeros((len(rows), width), dtype=np.int64)
    causal = np.tri(width, shared + width, shared, dtype=bool)
    for row, (length, tree) in enumerate(rows):
        root = length - shared - 1
        nodes = slice(root, root + len(tree))
        visible[row, :root, : shared + root] = causal[:root, : shared + root]
        visible[row, nodes, : length - 1] = True
        visible[row, nodes, length - 1 : length - 1 + len(tree)] = tree.visible()
        visible[row, nodes.stop :, 0] = True
        position_ids[row, :root] = np.arange(shared, length - 1)
        position_ids[row, nodes] = np.add(tree.depths, length - 1)
    return TreeLayout(visible, position_ids, [length - shared - 1 for length, _ in rows])
