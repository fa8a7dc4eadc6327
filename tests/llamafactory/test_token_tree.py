"""Trees of tokens, and where they lie in a forward pass."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulsa_plugin.llamafactory.model.token_tree import ROOT, TokenTree, lay_out

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=6).map(tuple), max_size=8)


def tree_of(sequences):
    tree = TokenTree()
    return tree, [tree.add(tokens) for tokens in sequences]


def path_to(tree, node):
    """Tokens of the nodes that a node attends to, in order."""
    return tuple(tree.tokens[one - 1] for one in np.flatnonzero(tree.visible()[node]) if one != ROOT)


@given(SEQUENCES)
def test_a_node_attends_to_the_tokens_of_its_sequence_alone(sequences):
    tree, nodes = tree_of(sequences)
    assert [path_to(tree, node) for node in nodes] == sequences
    assert [tree.depths[node] for node in nodes] == [len(tokens) for tokens in sequences]
    beginnings = {tokens[:length] for tokens in sequences for length in range(len(tokens) + 1)} | {()}
    assert len(tree) == len(beginnings)  # each is there once


@given(SEQUENCES, SEQUENCES)
def test_tokens_are_added_after_a_node(first, second):
    tree, nodes = tree_of(first)
    for node, tokens in zip(nodes, second, strict=False):
        before = path_to(tree, node)
        assert path_to(tree, tree.add(tokens, node)) == (*before, *tokens)


@given(SEQUENCES, st.integers(0, 7))
def test_after_gives_the_nodes_that_follow(sequences, chosen):
    tree, nodes = tree_of(sequences)
    starts = nodes[:chosen]
    begins = [path_to(tree, node) for node in starts]
    expected = [node for node in range(len(tree)) if any(path_to(tree, node)[: len(one)] == one for one in begins)]
    assert tree.after(starts) == expected


def test_children_are_found_by_token():
    tree, (end,) = tree_of([(5, 6)])
    assert tree.child(ROOT, 6) is None
    assert tree.child(tree.child(ROOT, 5), 6) == end


@given(st.lists(st.tuples(st.integers(3, 9), SEQUENCES), min_size=1, max_size=4), st.integers(0, 2))
def test_every_token_sees_its_prompt_and_what_it_follows(rows, shared):
    trees = [tree_of(sequences)[0] for _, sequences in rows]
    layout = lay_out([(length, tree) for (length, _), tree in zip(rows, trees, strict=True)], shared)
    for row, ((length, _), tree) in enumerate(zip(rows, trees, strict=True)):
        assert layout.roots[row] == length - shared - 1
        for column in range(shared, length):  # of the prompt, whose last token is the root
            seen = np.flatnonzero(layout.visible[row, column - shared])
            assert seen.tolist() == list(range(column + 1))
            assert layout.position_ids[row, column - shared] == column
        for node in range(len(tree)):
            seen = np.flatnonzero(layout.visible[row, layout.roots[row] + node])
            in_tree = (np.flatnonzero(tree.visible()[node]) + length - 1).tolist()
            assert seen.tolist() == [*range(length - 1), *in_tree]
            assert layout.position_ids[row, layout.roots[row] + node] == length - 1 + tree.depths[node]
        padding = layout.visible[row, layout.roots[row] + len(tree) :]
        assert (padding.sum(axis=1) == 1).all() and padding[:, 0].all()
