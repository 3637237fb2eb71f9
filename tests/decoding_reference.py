"""The obvious ways, slow and plain, that the fast decoder is tested against; and models to decode."""

from types import SimpleNamespace

import numpy as np
import torch

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.logits import logits_of


def logits_by(model):
    """Whole sequences in, logits of every position out."""
    return lambda ids: logits_of(
        model, hidden_states(model, ids, use_cache=False).last_hidden_state
    )


def brute_force(logits, item_tokens, prompt, normalise="vocabulary"):
    """Score every item: one pass over prompt and path, then the log-probability of each token."""
    ids = torch.tensor([prompt + path for path in item_tokens.tolist()])
    levels = item_tokens.shape[1]
    steps = logits(ids)[:, len(prompt) - 1 : -1]
    over = torch.zeros(steps.shape, dtype=torch.bool)
    for row, path in enumerate(item_tokens.tolist()):
        for level in range(levels):
            over[
                row, level, choices(item_tokens, path[:level], level, normalise, steps.shape[-1])
            ] = True
    log_p = steps.masked_fill(~over, -torch.inf).log_softmax(-1)
    return log_p.gather(-1, torch.from_numpy(item_tokens)[..., None]).sum((1, 2))


def choices(item_tokens, prefix, level, normalise, vocabulary):
    """What a token's probability is taken over."""
    if normalise == "vocabulary":
        return list(range(vocabulary))
    paths = item_tokens.tolist()
    return sorted({path[level] for path in paths if normalise == "level" or path[:level] == prefix})


def plain_beam_search(logits, item_tokens, prompt, beams, normalise="vocabulary", allowed=None):
    """Ten obvious lines."""
    paths = {
        tuple(path): row
        for row, path in enumerate(item_tokens.tolist())
        if allowed is None or allowed[row]
    }
    kept = [((), 0.0)]
    for level in range(item_tokens.shape[1]):
        grown = []
        for path, score in kept:
            step = logits(torch.tensor([[*prompt, *path]]))[0, -1]
            over = choices(item_tokens, list(path), level, normalise, len(step))
            tokens = {p[level] for p in paths if p[:level] == path}
            grown += [
                ((*path, token), score + (step[token] - step[over].logsumexp(0)).item())
                for token in tokens
            ]
        kept = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return [(paths[path], score) for path, score in kept]


def assert_same_ranking(items, scores, expected, tolerance=1e-5):
    """Items, order and scores agree; items whose scores differ by less than rounding may swap.

    Args:
        expected: (item, score) pairs, best first.
    """
    assert len(items) == len(expected)
    assert len(set(items)) == len(items)
    torch.testing.assert_close(
        torch.tensor(scores), torch.tensor([score for _, score in expected]), atol=tolerance, rtol=0
    )
    score_of = dict(expected)
    assert set(items) <= set(score_of)
    for item, score in zip(items, scores, strict=True):
        assert abs(score_of[item] - score) <= 2 * tolerance


def best_of(exact, allowed=None):
    """Sort what brute force found into (item, score) pairs."""
    rows = range(len(exact)) if allowed is None else np.flatnonzero(allowed).tolist()
    return sorted(((row, float(exact[row])) for row in rows), key=lambda pair: -pair[1])


def random_paths(rng, items, levels, labels, first_token=3):
    """Paths of random items, in random order; each level has its own tokens."""
    paths = np.unique(rng.integers(0, labels, size=(items, levels)), axis=0)
    return rng.permutation(paths) + first_token + labels * np.arange(levels)


class CheapModel:
    """Stands in for a causal LM: every hidden state depends on all tokens so far and their order."""

    def __init__(self, vocabulary, seed):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(vocabulary, 6, generator=generator)
        self.head = torch.nn.Linear(6, vocabulary)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(vocabulary, 6, generator=generator))
        self.config = SimpleNamespace()
        self.config.get_text_config = lambda: self.config
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def get_output_embeddings(self):
        return self.head

    def base_model(self, input_ids, **_):
        place = torch.arange(1, input_ids.shape[1] + 1)[:, None]
        return SimpleNamespace(
            last_hidden_state=torch.sin((self.table[input_ids] * place).cumsum(1))
        )


def tiny_model(shape, vocabulary=80, seed=0):
    """A real model of a shape, tiny, with random weights."""
    import transformers as t

    size = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "max_position_embeddings": 128,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    # Windows shorter than the prompts, so that they matter.
    mixed = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}
    configs = {
        "llama": lambda: t.LlamaConfig(**size, **heads),
        "qwen2": lambda: t.Qwen2Config(**size, **heads),
        "qwen2-mixed": lambda: t.Qwen2Config(**size, **heads, use_sliding_window=True, **mixed),
        "qwen3": lambda: t.Qwen3Config(**size, **heads, head_dim=16),
        "mistral": lambda: t.MistralConfig(**size, **heads, sliding_window=5),
        "gemma": lambda: t.GemmaConfig(**size, **heads, head_dim=16),
        "gemma2": lambda: t.Gemma2Config(
            **size, **heads, head_dim=16, final_logit_softcapping=2.0, **mixed
        ),
        "gemma3": lambda: t.Gemma3TextConfig(**size, **heads, head_dim=16, **mixed),
        "granite": lambda: t.GraniteConfig(**size, **heads, logits_scaling=3.0),
        "cohere": lambda: t.CohereConfig(**size, **heads, logit_scale=0.5),
        "phi": lambda: t.PhiConfig(
            **size, num_attention_heads=2, intermediate_size=48
        ),  # its output layer has a bias
        "gpt2": lambda: t.GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=128
        ),
        "bloom": lambda: t.BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=2),
        "mamba": lambda: t.MambaConfig(
            vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, state_size=4
        ),
    }
    torch.manual_seed(seed)
    model = t.AutoModelForCausalLM.from_config(configs[shape]()).eval()
    with torch.no_grad():  # as initialised, some shapes answer almost the same whatever they read
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model
