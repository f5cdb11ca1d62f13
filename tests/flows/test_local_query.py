"""The query language: its grammar, and that every mistake is shown where it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopipe.flows.local.query import And, Comparison, Everything, Node, Not, Or, Text, parse
from tomopipe.functions.errors import ParameterError

A, B, C = Text("a"), Text("b"), Text("c")


@pytest.mark.parametrize(
    ("query", "tree"),
    [
        ("", Everything()),
        (" * ", Everything()),
        ("porosity > 20", Comparison("porosity", ">", 20)),
        ("porosity>=20", Comparison("porosity", ">=", 20)),
        ("metrics.a_um<-1.5e-3", Comparison("metrics.a_um", "<", -0.0015)),
        ("a<=1", Comparison("a", "<=", 1)),
        ("a=1", Comparison("a", "=", 1)),
        ("a != 1", Comparison("a", "!=", 1)),
        ("sample:shale", Text("shale", "sample")),
        ('sample : "oil shale"', Text("oil shale", "sample")),
        ('"oil shale"', Text("oil shale")),
        ('"and"', Text("and")),
        ("sample:and", Text("and", "sample")),
        ("sha*", Text("sha", None, True)),
        ("sample:sha*", Text("sha", "sample", True)),
        ('"sha*"', Text("sha*")),
        ("tooth_2026-11", Text("tooth_2026-11")),
        ("a b", And(A, B)),
        ("a AND b", And(A, B)),
        ("a or b and c", Or(A, And(B, C))),
        ("a and b or c", Or(And(A, B), C)),
        ("a or b or c", Or(Or(A, B), C)),
        ("(a or b) c", And(Or(A, B), C)),
        ("not a b", And(Not(A), B)),
        ("not not a", Not(Not(A))),
        ("not (a or b)", Not(Or(A, B))),
        ("porosity > 20 and sample:shale", And(Comparison("porosity", ">", 20), Text("shale", "sample"))),
        ("a>1(b)", And(Comparison("a", ">", 1), B)),
    ],
)
def test_grammar(query: str, tree: Node) -> None:
    assert parse(query) == tree


@pytest.mark.parametrize(
    ("query", "position", "problem"),
    [
        ("porosity >", 11, "a number is needed after porosity >"),
        ("porosity > many", 12, "a number is needed after porosity >; for texts write porosity:word"),
        ("porosity > nan", 12, "a number is needed"),
        ("porosity > inf", 12, "a number is needed"),
        ('porosity > "20"', 13, "a number is needed"),
        ("> 20", 1, "a word"),
        ("1 < porosity < 2", 5, "a number is needed after 1 <"),
        ("a > 1 < 2", 7, "a word"),
        ("sample:", 8, "is needed after sample:"),
        ("sample:(a)", 8, "is needed after sample:"),
        (":a", 1, "a word"),
        ("(a or b", 8, "a ')' is needed"),
        ("a or b)", 7, "is a '(' missing"),
        ("()", 2, "a word"),
        ("a or", 5, "a word"),
        ("a and", 6, "a word"),
        ("and a", 1, "a word"),
        ("a or or b", 6, "a word"),
        ("not", 4, "a word"),
        ('say "hello', 5, "not closed"),
        ("a ! b", 3, "not understood"),
        ("-- a", 1, "letters or digits"),
        ('""', 2, "letters or digits"),
        ("(" * 60, 51, "more than 50 levels"),
        ("not " * 60 + "a", 201, "more than 50 levels"),
    ],
)
def test_mistakes_are_shown_in_place(query: str, position: int, problem: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse(query)
    first, shown, mark = str(caught.value).split("\n")
    assert problem in first
    assert shown == "  " + query
    assert mark == "  " + " " * (position - 1) + f"^ character {position}"


words = st.from_regex(r"[a-z][a-z0-9_.]{0,6}", fullmatch=True).filter(lambda word: word not in ("and", "or", "not"))
trees: st.SearchStrategy[Node] = st.recursive(
    st.builds(Text, words, st.none() | words, st.booleans())
    | st.builds(Text, st.from_regex(r"[a-z]+( [a-z:>]+){1,2}", fullmatch=True), st.none() | words)
    | st.builds(
        Comparison,
        words,
        st.sampled_from([">", ">=", "<", "<=", "=", "!="]),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.builds(Not, inner) | st.builds(And, inner, inner) | st.builds(Or, inner, inner),
    max_leaves=8,
)


def _written(tree: Node) -> str:
    match tree:
        case Text(text, field, prefix):
            value = f'"{text}"' if " " in text else text + "*" * prefix
            return f"{field}:{value}" if field else value
        case Comparison(field, operator, number):
            return f"{field} {operator} {number!r}"
        case Not(operand):
            return f"not ({_written(operand)})"
        case And(left, right):
            return f"({_written(left)}) and ({_written(right)})"
        case Or(left, right):
            return f"({_written(left)}) or ({_written(right)})"
    raise AssertionError(tree)


@given(trees)
def test_what_is_written_is_read(tree: Node) -> None:
    assert parse(_written(tree)) == tree


@given(st.text(max_size=40) | st.text(alphabet='ab.*:"()<>=! 1-', max_size=20))
def test_any_text_is_a_query_or_a_parameter_error(query: str) -> None:
    try:
        parse(query)
    except ParameterError as error:
        assert "search query: " in str(error)
