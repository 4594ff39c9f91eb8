"""The control without stage 2: trained branches answer by the mean of their own probabilities."""

from collections.abc import Callable, Iterator, Mapping

from trainers.engine.validation import validation_scores
from trainers.models.parts.device import default_device
from trainers.recipes.two_stage.model import TwoStageModel
from trainers.recipes.two_stage.task import TwoStageTask
from trainers.task import Candidate


class AverageTask(TwoStageTask):
    """A task without gradient steps: its only candidate is the mean of the branches."""

    num_candidates = 1

    _model: TwoStageModel
    _figures: Mapping[str, float]

    def measure(self, say: Callable[[str], None]) -> None:
        """Let all ranks answer the validation split together."""
        say("answering the validation split")
        device = default_device()
        self._model = self.build_model().to(device)
        self._figures = self.validate(*validation_scores(self, self._model, device))

    def candidates(self) -> Iterator[Candidate]:
        """The mean of the branches, with its figures."""
        setting = {"num_branches": float(len(self._branches))}
        yield Candidate(setting, self._figures, self._model)
