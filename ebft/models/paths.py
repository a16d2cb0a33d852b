"""Where a model is, found without torch, so that a path that leads nowhere is refused at once."""

from pathlib import Path

from ebft.config.schema import UserError
from ebft.models.named import named_folder

ADAPTER_FILE = "adapter_config.json"  # of a folder with adapters, by peft


def model_path(path: str, key: str) -> str:
    """A folder or a hub id: that of a model's name, that which a GGUF file was converted into, that which a run
    exported, or the path itself. UserError for a folder without a model."""
    named = named_folder(path, key)
    if named is not None:
        return str(named)
    if path.endswith(".gguf"):
        from ebft.models.gguf import converted  # which reads it by transformers

        return str(converted(Path(path), key))
    folder = Path(path)
    if (folder / ADAPTER_FILE).is_file():
        raise UserError(
            f"{key}={path} holds adapters, not a model; name one that has them merged, such as model/ in a run folder."
        )
    if (folder / "config.yaml").is_file() and not (folder / "config.json").is_file():
        exported = folder / "model"
        if not (exported / "config.json").is_file():
            raise UserError(
                f"{key}={path} is a run folder without a model, which a run exports at its end; let it finish, or name "
                "another."
            )
        return str(exported)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(
            f"{key}={path} has no config.json; name a folder in Hugging Face format, such as model/ in a run folder, "
            "or a hub id."
        )
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(
            f"{key}={path} does not exist; name a folder with a model or a hub id such as Qwen/Qwen2.5-0.5B."
        )
    return path
