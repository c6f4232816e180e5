"""The tag `<persres:…>` among the WebUI's extra networks."""

from __future__ import annotations

from modules import extra_networks

from ...prompt import NETWORK
from ...residual_folder import ResidualFolder
from ..chosen import chosen
from ..options import LAG
from ..settings import Settings
from .job import Job


class PersresNetwork(extra_networks.ExtraNetwork):
    def __init__(self, residuals: ResidualFolder):
        super().__init__(NETWORK)
        self.residuals = residuals

    def activate(self, p, params_list) -> None:
        """A pass of a batch begins. `params_list` is the first prompt's alone; the job reads every image's."""
        if p.prompts is None or p.all_prompts is None:  # the WebUI loads a model
            return
        job = Job.of(p) or Job.start(p, self.residuals, Settings.from_args([], chosen(LAG)))
        job.begin(hires=bool(getattr(p, "is_hr_pass", False)))

    def deactivate(self, p) -> None:
        """Nothing to do: no hook outlives `p.sample`, whether this is called or not."""
