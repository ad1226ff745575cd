import re
from pathlib import Path

from sagekit.data import prompts


def test_sixty_different_templates():
    assert len(set(prompts.TEMPLATES)) == 60
    assert all(t.count("[cls]") == 1 for t in prompts.TEMPLATES)


def test_fill():
    assert prompts.fill([prompts.SINGLE], "striped star") == ["a photo of a striped star."]


def test_source_holds_nothing_but_the_templates():
    text = Path(prompts.__file__).read_text(encoding="utf-8")
    assert len(re.findall(r'^    ".*\[cls\].*",$', text, re.M)) == 60
