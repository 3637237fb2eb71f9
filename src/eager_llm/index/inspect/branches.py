"""The branches of an index with the titles of some of their items."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from eager_llm.core.errors import UserError
from eager_llm.index.inspect.data import Branch
from eager_llm.index.inspect.nodes import Nodes
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.paths import level_letters, path_tokens, token

# Titles of a branch, and of a branch of the picture.
EXAMPLES = 8
TYPICAL_EXAMPLES = 3
# Random branches of a source, beside the largest.
RANDOM_BRANCHES = 3
# Branches of a picture that are told apart.
MAX_TOP_BRANCHES = 4096


class BranchReader:
    """Reads branches of an index.

    Args:
        titles: of the items; an item without one is called by its id.
    """

    def __init__(
        self,
        index: ItemIndex,
        titles: Mapping[str, str] | None,
    ) -> None:
        self.index = index
        self.titles = titles or {}

    def branch(
        self,
        tokens: str,
        rows: np.ndarray,
    ) -> Branch:
        """Return a branch with examples spread over it: evenly, in the order of the paths.

        Args:
            rows: the items of the branch, int64 [items of the branch].
        """
        codes = self.index.codes[rows]
        # lexsort goes by its last key first.
        order = np.lexsort(codes.T[::-1])
        positions = np.linspace(0, len(rows) - 1, EXAMPLES)
        positions = np.unique(positions.round().astype(int))
        sample = rows[order][positions]
        return Branch(tokens, len(rows), self._examples(sample))

    def requested(self, branches: Sequence[str]) -> list[Branch]:
        """Return branches by their tokens, such as `<a_17>` or `<a_17><b_3>`.

        Raises:
            UserError: a token is not of this index, or no item has the tokens of a branch.
        """
        label_of_token = {}
        for number, name in enumerate(self.index.vocabulary):
            label_of_token[name] = divmod(number, self.index.branching)
        result = []
        for branch in branches:
            names = re.findall(r"[^<>\s]+", branch)
            tokens = [f"<{name}>" for name in names]
            self._check_tokens(branch, tokens, label_of_token)
            is_under = np.ones(len(self.index.item_ids), dtype=bool)
            for name in tokens:
                level, label = label_of_token[name]
                labels = self.index.codes[:, level]
                is_under &= labels == label
            if not is_under.any():
                raise UserError(f"branch {branch!r}: no item has {' and '.join(tokens)}")
            rows = np.flatnonzero(is_under)
            result.append(self.branch("".join(tokens), rows))
        return result

    def largest_and_random(
        self,
        source: str,
        top: Nodes,
        seed: int,
    ) -> list[Branch]:
        """Return the largest first-level branch of a source and some random ones.

        Args:
            top: the nodes of the first level.
            seed: of the random ones.
        """
        rng = np.random.default_rng(seed)
        largest = int(top.size.argmax())
        others = np.delete(np.arange(len(top.size)), largest)
        count = min(RANDOM_BRANCHES, len(others))
        random_nodes = rng.choice(others, count, replace=False).tolist()
        names = self._top_names(source, top)
        branches = []
        for node in [largest, *sorted(random_nodes)]:
            rows = np.flatnonzero(top.of_item == node)
            branches.append(self.branch(names[node], rows))
        return branches

    def typical(
        self,
        source: str,
        top: Nodes,
    ) -> list[Branch]:
        """Return the first-level branches of a source, each with the items nearest to its centroid.

        An index without errors does not tell which these are: then they are any items. There is
        no branch at all where there are too many to tell apart.
        """
        names = self._top_names(source, top)
        if len(names) > MAX_TOP_BRANCHES:
            return []
        if self.index.errors is None:
            by_node = np.argsort(top.of_item, kind="stable")
        else:
            first_level = self.index.levels_of[source].start
            errors = self.index.errors[:, first_level]
            by_node = np.lexsort((errors, top.of_item))
        branches = []
        start = 0
        for name, size in zip(names, top.size.tolist(), strict=True):
            count = min(size, TYPICAL_EXAMPLES)
            examples = self._examples(by_node[start : start + count])
            branches.append(Branch(name, size, examples))
            start += size
        return branches

    def _examples(self, rows: np.ndarray) -> list[tuple[str, str]]:
        """Return tokens and title of some items."""
        examples = []
        for row in rows.tolist():
            item = self.index.item_ids[row]
            tokens = path_tokens(self.index.codes[row])
            title = self.titles.get(item) or item
            examples.append(("".join(tokens), title))
        return examples

    def _top_names(
        self,
        source: str,
        top: Nodes,
    ) -> list[str]:
        """Return the token of each first-level node of a source."""
        first_level = self.index.levels_of[source].start
        return [token(first_level, label) for label in top.label]

    def _check_tokens(
        self,
        branch: str,
        tokens: list[str],
        label_of_token: Mapping[str, tuple[int, int]],
    ) -> None:
        """Raise UserError unless a branch has tokens, all of this index."""
        unknown = [name for name in tokens if name not in label_of_token]
        if tokens and not unknown:
            return
        fault = unknown[0] if unknown else "nothing"
        last_level = level_letters(self.index.levels - 1)
        raise UserError(
            f"branch {branch!r}: {fault} is no token of this index; write it as <a_17> or "
            f"<a_17><b_3>, levels a to {last_level}, labels 0 to {self.index.branching - 1}"
        )
