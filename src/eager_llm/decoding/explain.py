"""Why an item came: what each of its tokens cost, along its path through the trie.

Shapes: N items to explain, C children of a node.
"""

from typing import Any

import torch

from eager_llm.decoding.beam import Beams, BeamSearch
from eager_llm.decoding.item_prior import ItemPrior
from eager_llm.decoding.prefix_cache import PrefixCache
from eager_llm.decoding.prompt_attention import PromptAttention
from eager_llm.decoding.trie import Trie


@torch.inference_mode()
def path_scores(
    model: Any,
    trie: Trie,
    prompt: list[int],
    rows: list[int],
    normalise: str,
    prompt_attention: type[PromptAttention],
    prefix_cache: PrefixCache | None = None,
    item_prior: ItemPrior | None = None,
) -> list[list[float]]:
    """Return the log-probability of every token of some items after a prompt.

    A token's share of the item prior is counted in. So the sum over an item's tokens is its score
    in `beam_search`, whose arguments these are.

    Args:
        rows: the items' rows in the index, at least one.

    Returns:
        For each item, a number a level.
    """
    device = trie.label.device
    count = len(rows)
    search = BeamSearch(model, trie, [count], normalise, item_prior=item_prior)
    states = prompt_attention(model, [prompt], prefix_cache)
    hidden = states.hidden
    beams = search.start()
    path = trie.path_nodes(torch.tensor(rows, device=device))  # [N, depth]
    # At the first level all items continue the prompt itself, from then on each its own beam.
    root = torch.zeros(1, count, dtype=torch.long, device=device)
    own = torch.arange(count, device=device)[None]
    zeros = torch.zeros(1, count, device=device)
    scores = []
    for level in range(trie.depth):
        if level:
            hidden = search.read_tokens(level - 1, states, beams)
        nodes = path[:, level][None]
        level_scores = _entry_scores(search, level, hidden, beams.node, nodes)
        scores.append(level_scores)
        parent = own if level else root
        beams = Beams(parent, nodes, zeros)
    tail_length = trie.levels - trie.depth
    tail = torch.zeros(count, tail_length, device=device)
    # Among the allowed tokens a forced one is certain.
    if tail_length and normalise != "allowed":
        leaf = beams.node - trie.level_start[trie.depth]
        tail = search.tail_scores(states, beams, leaf)[0]
    node_scores = torch.stack(scores, dim=1)
    return torch.cat([node_scores, tail], dim=1).tolist()


def _entry_scores(
    search: BeamSearch,
    level: int,
    hidden: torch.Tensor,
    parents: torch.Tensor,
    nodes: torch.Tensor,
) -> torch.Tensor:
    """Return what entering each node costs, [N].

    Args:
        hidden: of the parents' last tokens, [1, N or 1, width].
        parents: nodes of the level, [1, N or 1].
        nodes: one child of each parent, [1, N].
    """
    trie = search.trie
    items = nodes.shape[1]
    child, exists = trie.children(parents, level)  # [1, N or 1, C]
    label = trie.label[child].long()
    log_p = search.log_p(level, hidden, label, exists)
    if search.item_prior is not None:
        log_p = log_p + search.item_prior.gain(level, parents, child)
    first_child = trie.first_child[parents.expand(-1, items)]
    offset = (nodes - first_child).long()
    log_p = log_p.expand(-1, items, -1)
    scores = log_p.gather(-1, offset[..., None])
    return scores[0, :, 0]
