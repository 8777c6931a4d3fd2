"""Filling in the middle: the formats that the models were trained on, and nothing in the text that looks like them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.errors import InvalidRequest
from quern.modelfiles.vocabulary import TokenType
from quern.prompt.fim import Gap, GapEncoder, RepositoryFile
from quern.prompt.tokenizer import Tokenizer, byte_vocabulary

TOKENIZER = Tokenizer(byte_vocabulary())
ENCODER = GapEncoder(TOKENIZER)
SPECIAL = TOKENIZER.special.control
MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>", "<|im_end|>"]
TRICKY = st.lists(st.one_of(st.sampled_from([*MARKS, "<|fim_", "suffix|>", "\n"]), st.text(max_size=4))).map("".join)
FRAMED = "<|fim_prefix|>{}<|fim_suffix|>{}<|fim_middle|>{}"


def written(ids: tuple[int, ...]) -> str:
    """The prompt with its special tokens written out between `[` and `]`, so that their mere text shows."""
    names = {token_id: f"[{text}]" for text, token_id in SPECIAL.items()}
    pieces: list[bytes] = [names[i].encode() if i in names else bytes([i]) for i in ids]
    return b"".join(pieces).decode()


def without(*missing: str) -> GapEncoder:
    """An encoder for a model that lacks these tokens."""
    plain = byte_vocabulary()
    kinds = [
        TokenType.UNUSED if text in missing else kind for text, kind in zip(plain.tokens, plain.types, strict=True)
    ]
    return GapEncoder(Tokenizer(replace(plain, types=kinds)))


def test_one_file_is_prefix_suffix_middle() -> None:
    gap = Gap("def f(x):\n    ", "\n    return y\n")
    assert (
        written(ENCODER.encode(gap))
        == "[<|fim_prefix|>]def f(x):\n    [<|fim_suffix|>]\n    return y\n[<|fim_middle|>]"
    )


def test_a_filling_that_was_begun_stands_at_the_end() -> None:
    assert written(ENCODER.encode(Gap("a", "", "b"))) == "[<|fim_prefix|>]a[<|fim_suffix|>][<|fim_middle|>]b"


def test_a_repository_stands_before_the_file_with_the_gap() -> None:
    files = [RepositoryFile("a.py", "A = 1\n\n"), RepositoryFile("包/b.py", "B = 2"), RepositoryFile("empty.py", "")]
    gap = Gap("p", "s", files=files, repository="team/project", path="src/c.py")
    assert written(ENCODER.encode(gap)) == (
        "[<|repo_name|>]team/project\n[<|file_sep|>]a.py\nA = 1\n[<|file_sep|>]包/b.py\nB = 2\n"
        "[<|file_sep|>]empty.py\n\n[<|file_sep|>]src/c.py\n[<|fim_prefix|>]p[<|fim_suffix|>]s[<|fim_middle|>]"
    )


def test_what_is_named_is_shown_without_other_files_too() -> None:
    bare = written(ENCODER.encode(Gap("p", "s")))
    named = Gap("p", "s", repository="team/project", path="c.py")
    assert written(ENCODER.encode(named)) == "[<|repo_name|>]team/project\n[<|file_sep|>]c.py\n" + bare
    assert written(ENCODER.encode(Gap("p", "s", path="c.py"))) == "[<|file_sep|>]c.py\n" + bare


@given(TRICKY, TRICKY, TRICKY, st.lists(st.tuples(TRICKY, TRICKY), max_size=3), TRICKY)
def test_special_tokens_in_any_part_are_mere_text(
    prefix: str, suffix: str, begun: str, files: list[tuple[str, str]], name: str
) -> None:
    repository = [RepositoryFile(path, text) for path, text in files]
    gap = Gap(prefix, suffix, begun, repository, repository=name, path=name)
    ids = ENCODER.encode(gap)
    plain = Gap("x", "x", "x", [RepositoryFile("x", "x")] * len(files), repository="x", path="x")
    assert [i for i in ids if i > 255] == [i for i in ENCODER.encode(plain) if i > 255]
    text = bytes(i for i in ids if i < 256).decode()
    assert text.endswith(prefix + suffix + begun)


@given(TRICKY, TRICKY, TRICKY)
def test_a_frame_that_a_client_wrote_out_is_found(prefix: str, suffix: str, begun: str) -> None:
    frame = FRAMED.format(prefix, suffix, begun)
    gap = Gap.parse(frame)
    assert gap is not None
    assert FRAMED.format(gap.prefix, gap.suffix, gap.begun) == frame
    assert "<|fim_suffix|>" not in gap.prefix
    assert "<|fim_middle|>" not in gap.begun


def test_a_frames_parts_are_those_that_stand_in_it() -> None:
    assert Gap.parse(FRAMED.format("a\n", "b", "c")) == Gap("a\n", "b", "c")
    assert Gap.parse(FRAMED.format("", "", "")) == Gap("", "", "")


REPOSITORY = "<|repo_name|>{}\n<|file_sep|>a.py\nA = 1\n<|file_sep|>包/b.py\nB = 2\n<|file_sep|>src/c.py\n{}"


def test_a_frame_with_other_files_of_the_repository_has_them_as_context() -> None:
    frame = FRAMED.format("p", "s", "")
    gap = Gap.parse(REPOSITORY.format("team/project", frame))
    files = [RepositoryFile("a.py", "A = 1\n"), RepositoryFile("包/b.py", "B = 2\n")]
    assert gap == Gap("p", "s", files=files, repository="team/project", path="src/c.py")
    bracketed = "".join(f"[{part}]" if part in MARKS else part for part in re.split(r"(<\|\w+\|>)", frame))
    assert gap is not None
    assert written(ENCODER.encode(gap)) == (
        "[<|repo_name|>]team/project\n[<|file_sep|>]a.py\nA = 1\n[<|file_sep|>]包/b.py\nB = 2\n"
        "[<|file_sep|>]src/c.py\n" + bracketed
    )


def test_the_gap_is_in_the_first_file_that_begins_with_one() -> None:
    text = "B = 2\n<|fim_prefix|>is a token\n"
    gap = Gap.parse(f"<|repo_name|>r\n<|file_sep|>b.py\n{text}<|file_sep|>a<|file_sep|>c.py\n{FRAMED}")
    files = [RepositoryFile("b.py", text), RepositoryFile("a", "")]
    assert gap == Gap("{}", "{}", "{}", files=files, repository="r", path="c.py")


FILE = RepositoryFile("a.py", "A = 1\n")


@pytest.mark.parametrize(
    ("text", "gap"),
    [
        ("\n\n" + FRAMED.format("p", "s", ""), Gap("p", "s")),
        (" \t\r\n" + FRAMED.format("p", "s", "b"), Gap("p", "s", "b")),
        (FRAMED.format(" p\n", "\n", "") + "\n", Gap(" p\n", "\n", "\n")),
        ("<|fim_suffix|>s<|fim_prefix|>p<|fim_middle|>b", Gap("p", "s", "b")),
        ("<|fim_suffix|><|fim_prefix|><|fim_middle|>", Gap("", "")),
        ("<|fim_prefix|><|fim_suffix|>s<|fim_middle|>p", Gap("", "s", "p")),
        ("<|repo_name|>r\n" + FRAMED.format("p", "s", ""), Gap("p", "s", repository="r")),
        ("<|repo_name|>r" + FRAMED.format("p", "s", ""), Gap("p", "s", repository="r")),
        ("<|repo_name|>" + FRAMED.format("p", "s", ""), Gap("p", "s", repository="")),
        ("<|file_sep|>c.py\n" + FRAMED.format("p", "s", ""), Gap("p", "s", path="c.py")),
        ("<|file_sep|>c.py" + FRAMED.format("p", "s", ""), Gap("p", "s", path="c.py")),
        ("<|file_sep|>a.py\nA = 1\n" + FRAMED.format("p", "s", ""), Gap("p", "s", files=[FILE])),
        (
            "\n<|file_sep|>a.py\nA = 1\n<|file_sep|>c.py\n" + FRAMED.format("p", "s", ""),
            Gap("p", "s", files=[FILE], path="c.py"),
        ),
        (
            "<|repo_name|>r\n<|file_sep|>a.py\nA = 1\n" + FRAMED.format("p", "s", ""),
            Gap("p", "s", files=[FILE], repository="r"),
        ),
        (
            "<|repo_name|>r\n<|file_sep|>a.py\nA = 1\n<|file_sep|>c.py\n<|fim_suffix|>s<|fim_prefix|>p<|fim_middle|>",
            Gap("p", "s", files=[FILE], repository="r", path="c.py"),
        ),
    ],
)
def test_a_frame_is_a_frame_in_every_order_that_editors_send(text: str, gap: Gap) -> None:
    found = Gap.parse(text)
    assert found is not None
    assert replace(found, files=list(found.files)) == replace(gap, files=list(gap.files))


@pytest.mark.parametrize(
    ("part", "is_frame"),
    [
        ("<|file_sep|>", True),
        ("<|repo_name|><|file_sep|>x", True),
        ("<|file_sep|>\n", True),
        ("\n<|fim_prefix|>", True),
        ("\n<|fim_suffix|>", True),
        ("<|fim_suffix|><|fim_prefix|>", True),
        ("<|fim_middle|>", True),
        (" \n", True),
    ],
)
def test_megabytes_of_separators_are_read_like_any_other_text(part: str, is_frame: bool) -> None:
    prompt = "<|repo_name|>" + part * (2**21 // len(part))
    assert Gap.parse(prompt) is None
    assert Gap.parse(f"{prompt}\n<|fim_prefix|>") is None
    assert (Gap.parse(f"{prompt}\n{FRAMED}") is not None) == is_frame


@given(TRICKY, TRICKY, TRICKY, st.lists(st.tuples(TRICKY, TRICKY), max_size=3), TRICKY)
def test_whatever_starts_as_a_repository_is_encoded_or_stays_text(
    prefix: str, suffix: str, begun: str, files: list[tuple[str, str]], name: str
) -> None:
    context = "".join(f"<|file_sep|>{path}\n{text}" for path, text in files)
    gap = Gap.parse(f"<|repo_name|>{name}\n{context}<|file_sep|>{name}\n{FRAMED.format(prefix, suffix, begun)}")
    assert gap is None or ENCODER.encode(gap)


@pytest.mark.parametrize(
    "text",
    [
        "",
        REPOSITORY.format("r", "no gap"),
        REPOSITORY.format("r", "<|fim_prefix|>a<|fim_suffix|>b"),
        "def f():",
        "# a.py\n" + FRAMED.format("a", "b", ""),
        "<|fim_suffix|>b<|fim_middle|>a<|fim_prefix|>",
        "<|fim_suffix|>b<|fim_prefix|>a",
        "<|file_sep|>a.py\nA = 1\n",
        "x" + FRAMED.format("a", "b", ""),
        "<|fim_prefix|>a",
        "<|fim_prefix|>a<|fim_suffix|>b",
        "<|fim_prefix|>a<|fim_middle|>b",
        "<|fim_prefix|>a<|fim_middle|>b<|fim_suffix|>c",
        "<fim_prefix>a<fim_suffix>b<fim_middle>",
    ],
)
def test_other_text_is_no_frame(text: str) -> None:
    assert Gap.parse(text) is None


def test_a_filling_is_over_where_the_model_goes_on_with_something_else() -> None:
    ends = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
    assert ENCODER.stop_token_ids == {SPECIAL[text] for text in ends}
    assert without("<|fim_pad|>").stop_token_ids == {SPECIAL[text] for text in ends if text != "<|fim_pad|>"}


@pytest.mark.parametrize("missing", ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"])
def test_a_model_without_the_tokens_says_so(missing: str) -> None:
    encoder = without(missing)
    assert ENCODER.supported
    assert not encoder.supported
    with pytest.raises(InvalidRequest, match="no tokens for filling in the middle"):
        encoder.encode(Gap("a", "b"))


@pytest.mark.parametrize("missing", ["<|repo_name|>", "<|file_sep|>"])
def test_a_model_without_tokens_for_files_fills_gaps_of_single_files_only(missing: str) -> None:
    encoder = without(missing)
    assert encoder.supported
    assert encoder.encode(Gap("a", "b")) == ENCODER.encode(Gap("a", "b"))
    with pytest.raises(InvalidRequest, match="several files"):
        encoder.encode(Gap("a", "b", files=[RepositoryFile("c", "d")]))
