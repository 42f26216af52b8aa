"""One sentence on each word of Penstock's, for `penstock explain`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

_WORDS = {
    "alert": "A message to people when a monitor's check failed; one per cause.",
    "approval": "A question to people: may this version go to production? Bound to what they saw.",
    "artifact": "The packed files of a version in long-term storage.",
    "canary": "The part of a rollout in which the new version answers only a share of requests.",
    "champion": "The version that serves production.",
    "challenger": "The version that wants the champion's place.",
    "check": "One question about one version, with a verdict and its evidence.",
    "digest": "The SHA-256 of an artifact: a version's true identity.",
    "dossier": "What approvers read: the version and all that its checks found, in plain words.",
    "drain": "Letting requests in flight end before a worker stops.",
    "drift": "Inputs or predictions in production are no longer distributed as before.",
    "environment": "Where versions run: test or production.",
    "gate": "A rule over checks that decides whether a run goes on.",
    "gateway": "What takes requests, splits them between versions and writes the prediction log.",
    "journal": "The audit log; each entry's hash covers the one before, so that edits show.",
    "label": "The true answer to a logged prediction; it often comes much later.",
    "margin": "How much worse than the champion still counts as not worse.",
    "model": "A named thing that predicts, with a git repository of its own.",
    "monitor": "A check of production that returns each hour, day, week or month.",
    "prediction log": "What was asked and what was answered, kept for monitors and replay.",
    "promote": "To give a version more of the traffic, up to all of it.",
    "risk": "low, medium or high: how much harm a wrong answer does; it sets the defaults.",
    "roll back": "To give the traffic back to the version before; takes under a second.",
    "rollout": "The way of a version from no traffic to all of it.",
    "run": "One pass of the pipeline for one commit.",
    "sandbox": "Where code from outside runs: no network, and no files but those it needs.",
    "signature": "The columns that a model wants, with their types, and what it answers.",
    "stage": "A part of a run: build, test or production.",
    "step": "A part of a stage that is done once and whose result is kept.",
    "undecided": "A verdict: too little evidence either way. It never counts as passed.",
    "verdict": "A check's answer: passed, failed or undecided.",
    "version": "One immutable build of a model, written credit-default@12.",
    "worker": "The process that holds a version and computes its answers.",
}


def explained() -> Mapping[str, str]:
    """Return every word with its sentence."""
    return MappingProxyType(_WORDS)


def near(word: str) -> str | None:
    """Return the known word that looks most like `word`."""
    found = get_close_matches(word.lower(), _WORDS, n=1)
    return found[0] if found else None
