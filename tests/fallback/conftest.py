from pathlib import Path

import pytest

from fastagi.config import Settings
from fastagi.dialplan import render_fallback_facts
from tests.fallback.classic import Classic


def settings(**sections: object) -> Settings:
    return Settings.model_validate(
        {
            "asterisk": {"secret": "x"},
            "devices": [
                {"match": "10XX", "context": "phones", "interface": "PJSIP/{extension}"},
                {"match": "20XX", "interface": "Local/{extension}@out/n", "type": "remote"},
            ],
            "queues": [{"number": "1", "name": "sales"}, {"number": "2", "name": "night shift"}],
            "pause_reasons": [{"code": "1", "name": "lunch"}, {"code": "22", "name": "a meeting"}],
            **sections,
        }
    )


@pytest.fixture
def classic(tmp_path: Path) -> Classic:
    """An Asterisk with PJSIP/1001 in both queues."""
    facts = tmp_path / "facts.json"
    facts.write_text(render_fallback_facts(settings()), encoding="utf-8")
    made = Classic(facts, {"sales": {}, "night shift": {}})
    made.join("PJSIP/1001", "sales", "night shift")
    return made
