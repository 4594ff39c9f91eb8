"""Adapts a speech encoder by what else is known of its utterances: the recipe `multimodal`.

It is stage 1 of multimodal-adaptive-pretraining; stage 2 is `finetune` from its export. No labels
are used, and shards need not be packed: the targets are read from prediction tables.

The encoder is exported as transformers reads it. Beside it lie the heads and the statistics of the
targets, for analysis.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from shards.loading.batch_plan import UtterancePlan
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader
from shards.loading.objectives import join_objectives
from shards.storage.documents import write_json
from shards.storage.files import flush_tree
from trainers.engine.ranks import on_first_rank
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.personal.adapted_encoder import save_encoder
from trainers.models.research_only import note_research_only
from trainers.preparation.durations import with_durations
from trainers.preparation.encoder_start import first_sound_encoder
from trainers.preparation.hold_out import hold_out, hold_out_speakers
from trainers.preparation.length_limit import LengthLimit
from trainers.recipes.multimodal.config import MultimodalConfig
from trainers.recipes.multimodal.encoder_card import write_encoder_card
from trainers.recipes.multimodal.model import MultimodalModel
from trainers.recipes.multimodal.targets import digest, make_blocks
from trainers.recipes.recipe import Run
from trainers.recipes.unlabeled_task import UnlabeledTask
from trainers.task import TrainingModel

log = logging.getLogger(__name__)
HEADS_NAME, DESCRIPTION_NAME = "objectives.safetensors", "objectives.json"


class MultimodalTask(UnlabeledTask):
    """The task of `multimodal` on some splits of a corpus."""

    def __init__(self, run: Run, options: MultimodalConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, corpus)
        self._options = options
        self._limit = LengthLimit(run.data, seed=run.engine.seed)
        known = with_durations(corpus.split(*options.splits), on_first_rank)
        everything = self._limit.within(known, " ".join(options.splits))

        assert run.targets is not None  # noqa: S101 (`check` refuses a run without)
        self._targets_folder = run.targets
        found = join_objectives(everything, run.shards, run.targets, list(options.objectives))
        choose = hold_out_speakers if options.held_out == "speaker" else hold_out
        held_out = choose(everything, options.held_out_share, seed=run.engine.seed)
        self._blocks = make_blocks(found, options, ~held_out)
        makers = (objective.research_only_maker for objective in found.values())
        self._research_only_makers = [maker for maker in makers if maker is not None]

        self.divide(everything, held_out)

    @property
    def identity(self) -> str:
        """The text that tells whether a position in a stream of batches belongs to this task."""
        engine, view = self._engine, self._data.utterances
        return (
            f"{self.train.digest} {digest(self._blocks)} {view} {engine.seed} "
            f"{engine.batches_per_step}"
        )

    @property
    def score_width(self) -> int:
        """Two numbers for each objective: its loss, and whether it is known."""
        return 2 * len(self._blocks)

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """List what is left out, and say what the model must not be used for.

        The targets lie in the prediction tables.
        """
        on_first_rank(lambda: self._limit.write(out))
        on_first_rank(self._say_what_is_research_only)

    def training_reader(self) -> BatchReader:
        """Return a reader of training batches."""
        return BatchReader(
            self.train,
            ["sound"],
            self._targets(self._train_rows),
            cache_bytes=self._data.cache_bytes,
            crop=self._limit.training_crop,
        )

    def validation_reader(self) -> BatchReader:
        """Return a reader of the held-out utterances."""
        return BatchReader(
            self._held_out,
            ["sound"],
            self._targets(self._held_out_rows),
            crop=self._limit.validation_crop,
        )

    def plan(self) -> UtterancePlan:
        """Plan every utterance once an epoch."""
        seconds = self._limit.seconds(self.train)
        return UtterancePlan(seconds, self._data.utterances, seed=self._engine.seed)

    def build_model(self) -> MultimodalModel:
        """Build the encoder with its heads; it is the same on every rank."""
        torch.manual_seed(self._engine.seed)
        encoder = self._first_encoder()
        note_research_only(encoder, self._research_only_makers)
        encoder.freeze(
            front_end=self._encoder.freezes_front_end(by_default=True),
            num_layers=self._encoder.freeze_layers,
        )

        widths = {name: block.width for name, block in self._blocks.items()}
        return MultimodalModel(encoder, self._options, widths)

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """The terms on the held-out utterances, and their weighted sum, which is to be low."""
        losses, known = np.split(scores.astype(np.float64), 2, axis=1)
        terms = losses.sum(axis=0) / known.sum(axis=0).clip(1)
        figures = dict(zip(self._blocks, terms.tolist(), strict=True))

        weights = self._options.objectives
        return {"loss": sum(weights[name] * term for name, term in figures.items()), **figures}

    def objective(self, figures: Mapping[str, float]) -> float:
        """The negative loss on the held-out utterances: the higher, the better."""
        return -figures["loss"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the encoder, and beside it the heads and the statistics of their targets."""
        assert isinstance(model, MultimodalModel)  # noqa: S101 (this task made it)
        save_encoder(model.encoder, folder)

        tensors = {
            f"{name}.{part}": value.float().cpu().contiguous()
            for name, head in model.heads.items()
            for part, value in head.state_dict().items()
        }
        for name, block in self._blocks.items():
            tensors |= {
                f"{name}.mean": torch.from_numpy(block.mean),
                f"{name}.spread": torch.from_numpy(block.spread),
            }

        save_file(tensors, folder / HEADS_NAME)
        write_json(
            str(folder / DESCRIPTION_NAME),
            {
                name: {"values": block.values, "weight": self._options.objectives[name]}
                for name, block in self._blocks.items()
            },
        )
        values = {name: block.values for name, block in self._blocks.items()}
        write_encoder_card(folder, model.encoder.model.config.to_dict(), values)
        flush_tree(folder)

    def _say_what_is_research_only(self) -> None:
        for maker in self._research_only_makers:
            log.warning(
                "%s made targets in --targets %s; its license is for research only, and so is a "
                "model trained on them. Descriptors of `features: builtin` need no license",
                maker,
                self._targets_folder,
            )

    def _targets(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        return {name: block.array[rows] for name, block in self._blocks.items()}

    def _first_encoder(self) -> LayerwiseEncoder:
        """Load or make the encoder that training starts from."""
        return first_sound_encoder(
            self._encoder,
            self.training_reader,
            len(self.train),
            seed=self._engine.seed,
            allow_partial=self._allow_partial_start,
        )
