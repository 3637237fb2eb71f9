"""Why an item came: what each of its tokens cost, along its path through the trie."""

from typing import Any

import torch

from eager_llm.decoding.beam import Beams, Search
from eager_llm.decoding.item_prior import ItemPrior
from eager_llm.decoding.prefill import PrefixCache
from eager_llm.decoding.prompt_attention import Prompts
from eager_llm.decoding.trie import Trie


@torch.inference_mode()
def path_scores(
    model: Any,
    trie: Trie,
    prompt: list[int],
    rows: list[int],
    normalise: str,
    reader: type[Prompts],
    memory: PrefixCache | None = None,
    prior: ItemPrior | None = None,
) -> list[list[float]]:
    """Return the log-probability of every token of some items after a prompt, its share of the prior included: [items][levels].

    The sum over an item's tokens is its score in `beam_search`, whose arguments these are.

    Args:
        rows: the items' rows in the index, at least one.
    """
    search = Search(model, trie, [len(rows)], normalise)
    read = reader(model, [prompt], memory)
    hidden, now = read.hidden, search.start()
    path = trie.path_nodes(torch.tensor(rows, device=trie.label.device))  # [items, depth]
    parent = torch.zeros(1, len(rows), dtype=torch.long, device=path.device)
    scores = []
    for level in range(trie.depth):
        if level:
            hidden = read.extend(parent, search.tokens(level - 1, trie.label[now.node])[..., None])[
                :, :, 0
            ]
            parent = torch.arange(len(rows), device=path.device)[None]
        child, exists = trie.children(now.node, level)
        label = trie.label[child].long()
        chosen = path[:, level][None]
        log_p = search.log_p(level, hidden, label, exists)
        if prior is not None:
            log_p = log_p + prior.gain(level, now.node, child)
        log_p = log_p.expand(-1, len(rows), -1)
        offset = chosen - trie.first_child[now.node.expand(-1, len(rows))]
        scores.append(log_p.gather(-1, offset.long()[..., None])[0, :, 0])
        now = Beams(parent, chosen, torch.zeros(chosen.shape, device=path.device))
    tail = torch.zeros(len(rows), trie.levels - trie.depth, device=path.device)
    if tail.shape[1] and normalise != "allowed":  # a forced token is certain among the allowed ones
        tail = search.tail_scores(read, now, now.node - trie.level_start[trie.depth])[0]
    return torch.cat([torch.stack(scores, dim=1), tail], dim=1).tolist()
