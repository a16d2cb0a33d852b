"""Conversations as rows: what an assistant says is learned, with the token that ends its turn, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ebft.config.schema import UserError
from ebft.data import Data, chat, load
from ebft.data.bad_rows import Sieve
from ebft.data.columns import read_jsonl
from ebft.data.tokenization import Tokenization
from tests.data.helpers import file_config

CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKED = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|end|>{% endgeneration %}{% else %}{{ message.content }}<|end|>{% endif %}"
    "{% if not loop.last %} {% endif %}{% endfor %}"
)
SHORTENING = (  # earlier answers lose their thoughts once another turn follows
    "{% for message in messages %}<|{{ message.role }}|>"
    "{{ message.content if loop.last else message.content.split(' ')[-1] }}<|end|>{% endfor %}"
)
THOUGHTFUL = (  # as Qwen3's: thoughts, empty ones too, stand before the last answer alone
    "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' and loop.last and "
    "'e ' not in message.content %}d e {% endif %}{{ message.content if loop.last else "
    "message.content.split('e ')[-1] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CLOSED = CHATML + "{% if not add_generation_prompt %}<eos>{% endif %}"  # as Phi-3's
THOUGHTLESS = CHATML.replace("message.content", "message.content.split('e ')[-1]")
PROMPTED = CHATML.replace("<|assistant|>{% endif %}", "<|assistant|>e{% endif %}")  # as R1's
NEEDY = "{{ messages[0].content }}" + CHATML
BEGINNING_TURNS = (  # as Llama 2's
    "{% for message in messages %}{{ bos_token if message.role == 'user' }}{{ message.content }}"
    "{{ '<|end|>' if message.role == 'assistant' }} {% endfor %}"
)
ENDLESS = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }} {% endfor %}"
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('a user must begin') }}{% endif %}" + CHATML
BEGINNING = "{{ bos_token }}" + CHATML
LOOPING = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
CUELESS = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|> {% endfor %}"
THINKING = CHATML.replace("{{ message.content }}", "{{ 'e' if message.role == 'assistant' }} {{ message.content }}")

SPECIAL = ["<bos>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
WORDS = ["a", "b", "c", "d", "e"]
U, A, S, END, EOS, BOS = 2, 3, 4, 5, 1, 0
a, b, c, d, e = range(6, 11)


def tokenization(template: str | None = CHATML, bos: int | None = None) -> Tokenization:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(SPECIAL + WORDS)}, unk_token="<eos>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(token) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", bos_token="<bos>", name_or_path="toy")
    fast.chat_template = template
    return Tokenization(fast, bos, (EOS,))


def said(*turns: str) -> list[dict[str, str]]:
    """Of a user and an assistant in turns, after a system's message where it begins with one."""
    roles = ["user", "assistant"] * len(turns)
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]


def loaded(path: Path, rows: list[dict[str, Any]], tokens: Tokenization, **changes: Any) -> Data:
    """Rows as both sides, padded, as pairs are by default."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"layout": "padded", "loss_tokens": "completion", "sequence_length": 17, "text_column": None}
    columns = {"messages_column": "messages"} if "prompt_column" not in changes else {}
    config = file_config(path, **{**own, **columns, "validation_path": str(path), **changes})
    return load(config, tokens)


def counted(data: Data, row: int = 0) -> list[tuple[int, bool]]:
    """Tokens without padding, and whether they count."""
    rows, real = data.train, data.train.document_ids[row] == 0
    return list(zip(rows.tokens[row][real].tolist(), rows.loss_mask[row][real].tolist(), strict=True))


def no(*tokens: int) -> list[tuple[int, bool]]:
    return [(token, False) for token in tokens]


def yes(*tokens: int) -> list[tuple[int, bool]]:
    return [(token, True) for token in tokens]


TWO_TURNS = said("a b", "c", "d", "e a")


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "marks"])
def test_every_turn_of_the_assistant_counts_with_its_end(tmp_path: Path, template: str) -> None:
    data = loaded(tmp_path / "rows.jsonl", [{"messages": TWO_TURNS}], tokenization(template))
    assert counted(data) == [
        *no(U, a, b, END, A), *yes(c, END), *no(U, d, END, A), *yes(e, a, END)
    ]  # fmt: skip
    assert data.train.completion_mask.equal(data.train.loss_mask)
    assert data.tokenization.stop_tokens == (END, EOS)


@pytest.mark.parametrize(("template", "heading"), [(CUELESS, [A]), (THINKING, [A, e])], ids=["cueless", "thinking"])
def test_what_the_template_puts_before_an_answer_is_no_part_of_it(
    tmp_path: Path, template: str, heading: list[int]
) -> None:
    """Neither the role of a template without a cue, nor empty thoughts behind the cue."""
    rows = [{"messages": said("a", "b", "c", "d")}]
    data = loaded(tmp_path / "rows.jsonl", rows, tokenization(template), task="exact_match")
    assert counted(data) == [*no(U, a, END, *heading), *yes(b, END), *no(U, c, END, *heading), *yes(d, END)]
    assert data.train_questions is not None
    assert data.train_questions.prompt(0) == [U, a, END, *heading, b, END, U, c, END, *heading]


def rows_of(data: Data) -> list[list[tuple[int, bool]]]:
    return sorted((counted(data, row) for row in range(len(data.train))), key=len)


def test_turns_that_are_written_differently_once_others_follow_are_rows_of_their_own(tmp_path: Path) -> None:
    """Each as the model is asked for it; a question is the last one. One row has thoughts of its own, and in the other
    the template puts empty ones, or they are empty, which count as asked."""
    path, own, none = tmp_path / "rows.jsonl", said("a", "d a e b", "c", "d a e a"), said("a", "b", "c", "d e a")
    first, second = [U, a, END, A], [U, a, END, A, b, END, U, c, END, A]
    data = loaded(path, [{"messages": own}], tokenization(THOUGHTFUL), task="exact_match")
    assert rows_of(data) == [[*no(*first), *yes(d, a, e, b, END)], [*no(*second), *yes(d, a, e, a, END)]]
    assert data.train.documents[0] == data.train.documents[1]
    assert data.train_questions is not None
    assert (len(data.train_questions), data.train_questions.prompt(0)) == (1, second)
    data = loaded(path, [{"messages": none}], tokenization(THOUGHTFUL))
    assert rows_of(data) == [[*no(*first, d, e), *yes(b, END)], [*no(*second, d, e), *yes(a, END)]]
    data = loaded(path, [{"messages": said("a", "b c", "d", "e")}], tokenization(SHORTENING))
    assert rows_of(data) == [
        [*no(U, a, END, A), *yes(b, c, END)],
        [*no(U, a, END, A, c, END, U, d, END, A), *yes(e, END)],
    ]


def test_a_turn_of_a_conversation_that_fits_no_row_is_the_conversations(tmp_path: Path) -> None:
    """Here the first turn with its thoughts is the longest."""
    rows = [{"messages": said("a", "d e " + "b " * 9 + "c", "a", "b")}, {"messages": said("b", "c")}]
    tokens, path = tokenization(SHORTENING), tmp_path / "rows.jsonl"
    with pytest.raises(UserError, match=r"rows.jsonl:1 has 17 tokens with its EOS, above data.sequence_length=16"):
        loaded(path, rows, tokens, sequence_length=16)
    data = loaded(path, rows, tokens, sequence_length=16, bad_rows="drop")
    assert (rows_of(data), data.dropped["too long"]) == ([[*no(U, b, END, A), *yes(c, END)]], 2)


def test_what_closes_a_conversation_is_no_part_of_a_turn(tmp_path: Path) -> None:
    data = loaded(tmp_path / "rows.jsonl", [{"messages": TWO_TURNS}], tokenization(CLOSED))
    assert rows_of(data) == rows_of(loaded(tmp_path / "rows.jsonl", [{"messages": TWO_TURNS}], tokenization(CHATML)))
    assert data.tokenization.stop_tokens == (END, EOS)


def test_an_end_that_a_user_typed_ends_no_turn(tmp_path: Path) -> None:
    data = loaded(tmp_path / "rows.jsonl", [{"messages": said("a <|end|> b", "c <|end|> d")}], tokenization())
    assert counted(data) == [*no(U, a, END, b, END, A), *yes(c, END, d, END)]


def test_nothing_predicts_a_bos_inside_a_conversation(tmp_path: Path) -> None:
    """Not even with data.loss_tokens=all, and no rollout is asked to say it."""
    tokens = tokenization(BEGINNING_TURNS, bos=BOS)
    data = loaded(tmp_path / "rows.jsonl", [{"messages": said("a", "b", "c", "d")}], tokens, loss_tokens="all")
    assert counted(data) == [*no(BOS), *yes(a, b, END), *no(BOS), *yes(c, d, END)]
    assert data.train.starts is not None
    assert data.train.starts[0].nonzero().flatten().tolist() == [0, 4]


def test_a_question_has_the_tokens_of_its_row(tmp_path: Path) -> None:
    """Words that the tokenizer would join across the border of an earlier answer stay apart."""
    end = "{{ '<|end|>' if message.role == 'assistant' }}"
    tokens = tokenization("{% for message in messages %}{{ message.content }}" + end + "{% endfor %}")
    data = loaded(tmp_path / "rows.jsonl", [{"messages": TWO_TURNS}], tokens, task="exact_match")
    assert data.train_questions is not None
    prompt = data.train_questions.prompt(0)
    assert prompt == data.train.tokens[0][: len(prompt)].tolist()


def test_share_gpt_rows_are_the_same_rows(tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt"}
    rows = [{"from": names[message["role"]], "value": message["content"]} for message in TWO_TURNS]
    path = tmp_path / "rows.jsonl"
    theirs = loaded(path, [{"conversations": rows}], tokenization(), messages_column="conversations")
    assert counted(theirs) == counted(loaded(path, [{"messages": TWO_TURNS}], tokenization()))


def test_what_follows_the_last_answer_is_left_out(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "system", "content": "e"}, *said("a", "b", "c")]}]
    assert counted(loaded(tmp_path / "rows.jsonl", rows, tokenization())) == [
        *no(S, e, END, U, a, END, A),
        *yes(b, END),
    ]


@pytest.mark.parametrize("answer", [said("", "c")[1:], "c"], ids=["messages", "text"])
def test_prompt_and_completion_may_be_messages(tmp_path: Path, answer: Any) -> None:
    rows = [{"prompt": said("a", "b", "d"), "completion": answer}]
    columns = {"prompt_column": "prompt", "completion_column": "completion"}
    data = loaded(tmp_path / "rows.jsonl", rows, tokenization(), **columns)
    assert counted(data) == [*no(U, a, END, A), *yes(b, END), *no(U, d, END, A), *yes(c, END)]


def test_a_question_is_the_last_turn(tmp_path: Path) -> None:
    data = loaded(tmp_path / "rows.jsonl", [{"messages": TWO_TURNS}], tokenization(), task="exact_match")
    questions = data.train_questions
    assert questions is not None
    assert questions.prompt(0) == [U, a, b, END, A, c, END, U, d, END, A]
    assert (questions.items[0].answer, questions.items[0].references) == ("e a", ("e a",))
    assert questions.items[0].prompt == "<|user|>a b<|end|> <|assistant|>c<|end|> <|user|>d<|end|> <|assistant|>"
    assert counted(data)[5:7] == yes(c, END)


def test_a_bos_is_never_doubled(tmp_path: Path) -> None:
    rows = [{"messages": said("a", "b")}]
    written = counted(loaded(tmp_path / "rows.jsonl", rows, tokenization(BEGINNING, bos=BOS)))
    assert written == counted(loaded(tmp_path / "rows.jsonl", rows, tokenization(CHATML, bos=BOS)))
    assert written == [*no(BOS, U, a, END, A), *yes(b, END)]


def test_the_end_that_is_trained_can_be_named(tmp_path: Path) -> None:
    rows = [{"messages": said("a", "b")}]
    assert loaded(tmp_path / "rows.jsonl", rows, tokenization(), end_token="<eos>").tokenization.stop_tokens == (
        EOS,
        END,
    )


def test_conversations_with_one_last_answer_are_no_copies(tmp_path: Path) -> None:
    """Thanks are answered alike everywhere; a conversation is another one's copy where all its messages are."""
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": said(word, "b", "d", "c")} for word in ("a", "b", "a")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, sieve = file_config(path, text_column=None, messages_column="messages"), Sieve(drops=True)
    assert len(list(read_jsonl(config, str(path), sieve))) == 2
    assert sieve.dropped == {"duplicate": 1}


def test_rows_of_one_question_are_on_one_side(tmp_path: Path) -> None:
    """Different second turns behind the same first one share their key."""
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": said("a", "b", turn, "c")} for turn in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = file_config(path, text_column=None, messages_column="messages")
    assert len({document.key for document in read_jsonl(config, str(path), Sieve(drops=False))}) == 1


def test_a_template_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(MARKED)
    rows = [{"messages": said("a", "b")}]
    data = loaded(tmp_path / "rows.jsonl", rows, tokenization(None), chat_template=str(tmp_path / "own.jinja"))
    assert counted(data) == [*no(U, a, END, A), *yes(b, END)]


@pytest.mark.parametrize(("template", "changes", "rows", "message"), [
    (None, {}, said("a", "b"), "the tokenizer of toy has no chat template; name a file with one as data.chat_template"),
    (CHATML, {"chat_template": "none"}, said("a", "b"), "The rows hold messages, but data.chat_template=none"),
    (CHATML, {"chat_template": "none.jinja"}, said("a", "b"), "data.chat_template=none.jinja is not a file"),
    (PROMPTED, {}, said("a", "b"),
     "cannot be cut into turns: the chat template of toy does not write before message 2 what it writes to ask for it"),
    (THOUGHTLESS, {}, said("a", "e b"),
     "rows.jsonl:1 cannot be learned from: the chat template of toy leaves out a part of message 2, as thoughts"),
    (NEEDY, {}, said("", "b")[1:], "rows.jsonl:1 begins with an answer, and the chat template of toy asks for none"),
    (ENDLESS, {}, said("a", "b"),
     "^A question and an answer cannot be learned from: the chat template of toy ends an assistant's turn with no "
     r"token of its own, so that a model would never learn to stop; name another template \(data\.chat_template\)\.$"),
    (STRICT, {}, said("a", "b")[1:], "rows.jsonl:1 cannot be written with the chat template of toy: a user must begin"),
    ("{% if %}", {}, said("a", "b"),
     "^A question and an answer cannot be written with the chat template of toy: Expected an expression.*; name"),
    ("{{ 1 / 0 }}", {}, said("a", "b"), "^A question and .* the chat template of toy: division by zero; name another"),
    (LOOPING, {}, said("a", "b"), "the chat template of toy: it takes longer than 0.3 s; name another template"),
    (CHATML, {}, said("a"), "rows.jsonl:1 holds no message of an assistant"),
    (CHATML, {}, [], "rows.jsonl:1 holds no list of messages in column messages"),
    (CHATML, {}, "a b", "rows.jsonl:1 holds no list of messages in column messages"),
    (CHATML, {}, [{"role": "user"}], r"holds a message without role and content \(or from and value\)"),
    (CHATML, {}, [{"role": "user", "content": 3}], "holds int in column messages"),
    (CHATML, {}, said("a", " "), "rows.jsonl:1 is empty in column messages"),
])  # fmt: skip
def test_what_cannot_be_a_conversation_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    template: str | None,
    changes: dict[str, Any],
    rows: Any,
    message: str,
) -> None:
    monkeypatch.setattr(chat, "RENDERING_SECONDS", 0.3)
    with pytest.raises(UserError, match=message):
        loaded(tmp_path / "rows.jsonl", [{"messages": rows}], tokenization(template), **changes)
