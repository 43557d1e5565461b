"""RESPONDENT is REP with a queue: the same model."""

from __future__ import annotations

from test_rep_model import RepWorld
from world import SETTINGS

from spworkers.protocol.respondent import Respondent
from spworkers.testing import Harness


class RespondentWorld(RepWorld):
    machine = Respondent

    def make(self, prompt: bool) -> Harness:
        harness = super().make(prompt)
        harness.configure("READQ-LEN", 3)
        return harness


TestRespondent = RespondentWorld.TestCase
TestRespondent.settings = SETTINGS
