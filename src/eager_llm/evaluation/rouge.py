"""ROUGE-L, written here: the rouge-score package brings nltk and absl along for forty lines."""

import re

_WORD = re.compile(r"\w+")


def rouge_l(text: str, reference: str) -> float:
    """Return the F1 of the longest common subsequence of words (ROUGE-L; Lin 2004).

    Upper and lower case are the same.
    """
    words = _WORD.findall(text.lower())
    reference_words = _WORD.findall(reference.lower())
    if not words or not reference_words:
        return float(words == reference_words)
    common = _longest_common_subsequence(words, reference_words)
    return 2 * common / (len(words) + len(reference_words))


def _longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Return the length of the longest common subsequence of two lists."""
    # Of the words of `first` so far with the first n words of `second`.
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0  # without this word, and without the n-th of `second`
        for n, other in enumerate(second, start=1):
            above = lengths[n]
            if word == other:
                lengths[n] = diagonal + 1
            else:
                lengths[n] = max(above, lengths[n - 1])
            diagonal = above
    return lengths[-1]
