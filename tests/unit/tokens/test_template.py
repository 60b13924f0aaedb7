"""Chat templates: transformers' dialect (held against it in tests/worker/test_templates.py) and its borders."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
import vocabularies

from engine.datasets.base import Message
from engine.errors import DataError, MissingError
from engine.tokens.template import Template, read_template

CHAT: list[Message] = [{"role": "user", "content": "<b>é</b>"}, {"role": "assistant", "content": "ok"}]


def render(source: str, **tokens: str) -> str:
    return Template(source, tokens).render(CHAT)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<b>é</b>"}'),
        ("{{ messages[1] | tojson(indent=1) }}", '{\n "role": "assistant",\n "content": "ok"\n}'),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "user"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "assistant"),
        ("{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}", "2"),
        ("{{ dict(a=1) | tojson }}{{ dict.fromkeys([1], 2) | tojson }}", '{"a": 1}{"1": 2}'),
        ("{{ bos_token }}{{ pad_token is defined }}", "<s>False"),
        ("{{ tools is none }}{{ add_generation_prompt }}", "TrueFalse"),
    ],
)
def test_the_dialect_is_transformers(source: str, text: str) -> None:
    assert render(source, bos_token="<s>") == text


def test_generation_marks_render_as_if_they_were_not_there() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    assert render(source) == "<b>é</b>|ok|"


def test_what_is_set_within_generation_marks_ends_with_them() -> None:
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert render(source) == "21"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ dict.__subclasses__() }}",
        "{{ range(10000000) | list }}",
        "{{ raise_exception('not in this way') }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{% for %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_that_breaks_or_breaks_out_is_refused(source: str) -> None:
    with pytest.raises(DataError, match="chat template refuses"):
        render(source)


def test_a_refusal_has_the_template_s_own_words() -> None:
    with pytest.raises(DataError) as caught:
        render("{{ raise_exception('roles \x1b[31mmust\x1b[0m alternate') }}")
    assert caught.value.detail.startswith("roles")
    assert "\x1b" not in caught.value.detail


def test_the_day_is_the_one_given() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert Template(source, now=datetime(2024, 7, 26)).render(CHAT) == "26 Jul 2024"


def test_without_a_day_it_is_today() -> None:
    before = datetime.now()
    told = Template("{{ strftime_now('%Y-%m-%dT%H:%M:%S.%f') }}").render(CHAT)
    assert before <= datetime.fromisoformat(told) <= datetime.now()


def test_llama_3_2_writes_the_day_of_the_plan() -> None:
    template = Template(vocabularies.template("llama3_2"), now=datetime(2025, 1, 2))
    assert "Today Date: 02 Jan 2025\n" in template.render(CHAT)


def test_a_thought_is_handed_over_under_both_names() -> None:
    message: Message = {"role": "assistant", "content": "", "reasoning_content": "hm"}
    assert Template("{{ messages[0].thinking }}{{ messages[0].reasoning_content }}").render([message]) == "hmhm"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("chat_template.jinja", "T"),
        ("chat_template.json", json.dumps({"chat_template": "T"})),
        ("tokenizer_config.json", json.dumps({"chat_template": "T"})),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "T"}]}),
        ),
    ],
)
def test_a_folder_s_template_is_found_wherever_it_keeps_it(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    assert read_template(tmp_path) == "T"


def test_a_folder_may_have_no_template(tmp_path: Path) -> None:
    assert read_template(tmp_path) is None


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(MissingError, match=r"tokenizer_config\.json"):
        read_template(tmp_path)


def test_a_damaged_template_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff{{ messages }}")
    with pytest.raises(MissingError, match=r"chat_template\.jinja"):
        read_template(tmp_path)


@pytest.mark.parametrize("listed", [["x"], [{"name": "default"}], [{"name": "tool_use", "template": "x"}]])
def test_a_list_without_a_default_template_has_none(tmp_path: Path, listed: list[object]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}), "utf-8")
    assert read_template(tmp_path) is None
