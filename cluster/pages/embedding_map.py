"""Speaker embeddings on a plane (t-SNE), colored by any field of the samples' json.

A personalized model is shown by how it describes a speaker: one point for every set that it
recognized together. Any other model is shown by the mean of its pooled features over each speaker's
utterances.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from shards.config import ConfigError

MIN_POINTS, MAX_POINTS = 8, 2000
MAX_NAMED, NUM_BINS = 10, 5
UNKNOWN = "not known"
GOLDEN_ANGLE = 137.508


@dataclass(frozen=True, slots=True)
class Places:
    """Points [P, 2], and the rows of the corpus that each of them stands for."""

    points: NDArray[np.float64]
    rows: Sequence[NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Coloring:
    """A color and a text for every point, and the meaning of each color.

    The `legend` is empty when there are too many values to name.
    """

    colors: Sequence[str]
    texts: Sequence[str]
    legend: Sequence[tuple[str, str]]


def place_embeddings(
    vectors: NDArray[np.float32],
    groups: Sequence[NDArray[np.int64]],
    seed: int,
    method: Literal["tsne", "umap"] = "tsne",
) -> Places | None:
    """Place `vectors` [P, D] on a plane by t-SNE, or as `method` says.

    Each stands for a group of rows. At most 2000 of them are placed, drawn by `seed`. Returns None
    when there are too few for a neighborhood. Raises ConfigError when UMAP is not installed.
    """
    if len(vectors) < MIN_POINTS:
        return None

    chosen = np.arange(len(vectors))
    if len(vectors) > MAX_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MAX_POINTS, replace=False))

    place = _by_umap if method == "umap" else _by_tsne
    points = place(vectors[chosen], seed)

    return Places(points.astype(np.float64), [groups[number] for number in chosen.tolist()])


def _by_tsne(vectors: NDArray[np.float32], seed: int) -> NDArray[np.floating]:
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    found: NDArray[np.floating] = TSNE(
        perplexity=perplexity, init="pca", random_state=seed
    ).fit_transform(vectors)
    return found


def _by_umap(vectors: NDArray[np.float32], seed: int) -> NDArray[np.floating]:
    try:
        from umap import UMAP  # an optional extra
    except ImportError as error:
        raise ConfigError(
            "--map umap: umap-learn is missing; pip install 'emostream[umap]', or leave out --map"
        ) from error

    neighbors = min(15, len(vectors) - 1)
    # With one thread, equal seeds give equal maps.
    found: NDArray[np.floating] = UMAP(
        n_neighbors=neighbors, random_state=seed, n_jobs=1
    ).fit_transform(vectors)
    return found


def color(values: Sequence[str | None]) -> Coloring:
    """Choose a color for each value.

    Many different numbers are colored by fifths, from cold to warm. Otherwise every value has a
    color of its own: numbers in their order, names from the most frequent on.
    """
    known = [value for value in values if value is not None]

    numbers = _numbers(known)
    if numbers is not None and len(set(numbers)) > MAX_NAMED:
        edges = np.quantile(numbers, np.linspace(0, 1, NUM_BINS + 1))
        names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]

        bins = [
            None if value is None else int(np.searchsorted(edges[1:-1], float(value)))
            for value in values
        ]
        scale = [f"var(--scale-{number})" for number in range(NUM_BINS)]

        texts = [UNKNOWN if value is None else value for value in values]
        colors = ["var(--muted)" if place is None else scale[place] for place in bins]

        return Coloring(colors, texts, list(zip(scale, names, strict=True)))

    texts = [UNKNOWN if value is None else value for value in values]
    if numbers is None:
        order = [
            name for name, _ in sorted(Counter(known).items(), key=lambda item: (-item[1], item[0]))
        ]
    else:
        order = sorted(set(known), key=float)

    if len(order) <= MAX_NAMED:
        color_of = {name: f"var(--name-{place})" for place, name in enumerate(order)}
    else:
        color_of = {
            name: f"hsl({place * GOLDEN_ANGLE % 360:.0f} 60% 50%)"
            for place, name in enumerate(order)
        }

    color_of[UNKNOWN] = "var(--muted)"
    legend = [(color_of[name], name) for name in order] if len(order) <= MAX_NAMED else []
    if None in values and len(order) <= MAX_NAMED:
        legend.append((color_of[UNKNOWN], UNKNOWN))

    return Coloring([color_of[text] for text in texts], texts, legend)


def shared_value(values: Sequence[str | None]) -> str | None:
    """Return one value for all utterances of a set.

    It is their common value, the mean of numbers, or `mixed`; None when no value is known.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(set(known)) == 1:
        return known[0]
    numbers = _numbers(known)
    return "mixed" if numbers is None else f"{float(np.mean(numbers)):.6g}"


def _numbers(texts: Sequence[str]) -> list[float] | None:
    try:
        found = [float(text) for text in texts]
    except ValueError:
        return None
    return found if found and all(np.isfinite(found)) else None
