"""What a run reads, looked for before anything is imported that reads it: torch and transformers take seconds."""

from pathlib import Path

from ebft.config.schema import EvaluateConfig, FileDataConfig, HubDataConfig, TrainConfig, UserError
from ebft.config.stored import data_file
from ebft.models.model_folder import check_adapters, check_folder
from ebft.models.paths import ADAPTER_FILE, model_path

BASE = "base"  # among models: that of model.path
CHECKPOINT = "state.pt"  # in the folder of one


def check_sources(config: TrainConfig) -> None:
    """Raises UserError for a folder with a model, or a file with rows, that is not there or broken, and for what the
    hub does not have. Others are left to those that read them: a GGUF file is converted, a run's checkpoint loaded."""
    model = config.model
    _check_model(model.path, "model.path", model.revision, has_weights=model.init == "pretrained")
    if config.features.network == "checkpoint" and config.features.path is not None:
        _check_model(config.features.path, "features.path")
    if isinstance(config.data, FileDataConfig):
        for rows in (config.data.path, config.data.validation_path):
            if rows is not None:
                data_file(rows)
    elif isinstance(config.data, HubDataConfig):
        from ebft.output.hub import check_data_set

        check_data_set(config.data.path, config.data.revision)
    if isinstance(config, EvaluateConfig):
        _check_models(config.models)


def _check_models(sources: list[str]) -> None:
    """Raises UserError if none of the models can be evaluated; of several, those that can are."""
    refusals = []
    for source in sources:
        try:
            if (Path(source) / ADAPTER_FILE).is_file():
                check_adapters(Path(source), f"models={source}")
            elif source != BASE and not _is_of_a_run(Path(source)):
                _check_model(source, "models")
            return
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _is_of_a_run(folder: Path) -> bool:
    """A run, or one of its checkpoints."""
    return any((folder / file).exists() for file in ("config.yaml", CHECKPOINT))


def _check_model(path: str, key: str, revision: str | None = None, has_weights: bool = True) -> None:
    if path.endswith(".gguf"):
        return
    from ebft.output.hub import check_on_hub

    found = model_path(path, key)
    check_on_hub(found, revision, key, "model")
    check_folder(Path(found), f"{key}={path}", has_weights)
