"""What a run reads, looked for before anything is imported that reads it: torch and transformers take seconds."""

from ebft.config.schema import FileDataConfig, TrainConfig
from ebft.config.stored import data_file
from ebft.models.paths import model_path


def check_sources(config: TrainConfig) -> None:
    """Raises UserError for a folder with a model, or a file with rows, that is not there. Others are left to those that
    read them: a GGUF file is converted, the hub is asked."""
    models = {"model.path": config.model.path}
    if config.features.network == "checkpoint" and config.features.path is not None:
        models["features.path"] = config.features.path
    for key, path in models.items():
        if not path.endswith(".gguf"):
            model_path(path, key)
    if isinstance(config.data, FileDataConfig):
        for rows in (config.data.path, config.data.validation_path):
            if rows is not None:
                data_file(rows)
