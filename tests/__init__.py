"""The tests mirror the product's folders; `worlds` make corpora, `benchmarks` measure."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout, from which `python -m cluster` runs
