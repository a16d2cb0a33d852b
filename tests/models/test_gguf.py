"""GGUF files become folders in Hugging Face format, once, and broken ones a sentence."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("gguf")

from ebft.config.schema import UserError
from ebft.models import gguf
from ebft.models.named import TINY
from ebft.models.paths import model_path
from ebft.output.files import sha256_of
from tests.gguf_file import tiny, write_gguf

TEXT = "def add(a, b):\n    return a + b\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "Q8_0")


def refusal(path: object) -> str:
    with pytest.raises(UserError) as error:
        model_path(str(path), "model.path")
    return str(error.value)


def kept(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.slow
def test_a_file_of_whole_numbers_is_the_model_itself(cache: Path, tmp_path: Path) -> None:
    """In the type of its matrices, with its tokenizer and where texts end."""
    folder = model_path(str(write_gguf(tmp_path / "tiny.gguf")), "model.path")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(TINY)(TEXT, return_tensors="pt").input_ids
    assert torch.equal(tokenizer(TEXT, return_tensors="pt").input_ids, ids)
    torch.testing.assert_close(model(ids).logits, tiny()(ids).logits, rtol=1e-5, atol=1e-5)
    assert (model.dtype, hasattr(model.config, "quantization_config")) == (torch.float32, False)
    assert (tokenizer.eos_token, model.generation_config.eos_token_id) == ("<|endoftext|>", tokenizer.eos_token_id)
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert "No number was rounded." in (Path(folder) / "README.md").read_text()


@pytest.mark.slow
def test_a_file_of_blocks_is_plain_afterwards_and_its_card_says_where_it_came_from(
    packed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    gguf.convert(packed, folder, "it", "A title", "Of a test.", "1MB")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.dtype, hasattr(model.config, "quantization_config")) == (torch.bfloat16, False)
    assert len(list(folder.glob("*.safetensors"))) > 1
    difference = model.float().get_input_embeddings().weight - tiny().get_input_embeddings().weight
    assert 0 < difference.abs().max() < 0.02
    card = (folder / "README.md").read_text()
    assert "# A title\n\nOf a test.\n" in card
    assert "| types of its tensors | F32, Q8_0 |\n| weights here | bfloat16 |" in card
    assert "went through blocks of a few bits a number (Q8_0)" in card
    assert sha256_of(packed) in card


@pytest.mark.slow
def test_a_file_is_converted_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is called; another file in its place is another model."""
    file = write_gguf(tmp_path / "tiny.gguf", "F16")
    folder = model_path(str(file), "model.path")
    monkeypatch.setattr(gguf, "convert", None)
    assert model_path(str(file.rename(tmp_path / "other.gguf")), "features.path") == folder
    assert kept(cache) == [Path(folder).name]
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float16


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.9999])
def test_a_file_that_was_cut_off_is_refused(cache: Path, tmp_path: Path, packed: Path, share: float) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(packed.read_bytes()[: int(share * packed.stat().st_size)])
    sentence = refusal(file)
    assert sentence.startswith(f"model.path={file} is no GGUF file that transformers reads (")
    assert sentence.endswith("); download it again, or name a folder in Hugging Face format.")
    assert "\n" not in sentence
    assert kept(cache) == [], "nothing half-converted is left"


@pytest.mark.slow
def test_a_file_that_transformers_does_not_read_is_refused(cache: Path, tmp_path: Path) -> None:
    other = refusal(write_gguf(tmp_path / "a.gguf", architecture="dreamt"))
    assert "is no GGUF file that transformers reads (GGUF model with architecture dreamt is not supported" in other
    lacking = refusal(write_gguf(tmp_path / "b.gguf", left_out=["blk.1.ffn_up.weight", "blk.2.attn_q.weight"]))
    assert "(it lacks 2 weights, such as model.layers.1.mlp.up_proj.weight)" in lacking
    assert kept(cache) == []


def test_what_is_no_gguf_file_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, page = tmp_path / "a.gguf", tmp_path / "b.gguf"
    page.write_text("<html>404</html>" * 9)
    assert refusal(missing) == f"model.path={missing} is not a file; correct the path."
    assert refusal(page).startswith(f"model.path={page} is no GGUF file that transformers reads (")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    assert refusal(page) == (
        f"model.path={page} cannot be read without gguf and accelerate; run pip install 'ebft[real]'."
    )
    monkeypatch.setenv("EBFT_CACHE", "")
    assert refusal(page) == (
        f"model.path={page} is kept in the folder that EBFT_CACHE names once it is converted; set EBFT_CACHE, which is "
        "empty."
    )
