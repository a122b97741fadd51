"""A model that answers no questions, but makes vectors, is found by its name, too."""

from __future__ import annotations

import pytest
from support.embedding import write_model

from ainet.config import AinetConfig
from ainet.errors import NotFound
from ainet.models.catalog import ModelCatalog
from ainet.models.tensors import TensorStore


def test_the_file_of_a_model_that_answers_no_questions_is_found(tmp_path):
    embeds = write_model(tmp_path / "finds.gguf")
    config = AinetConfig(data_dir=str(tmp_path / "data"), model_paths=[str(embeds)], discover_models=False)
    with TensorStore(tmp_path / "store") as store:
        found = ModelCatalog(config, store)
        assert found.path("finds") == found.path(str(embeds)) == str(embeds)
        with pytest.raises(NotFound, match="No model is called 'nothing' here"):
            found.path("nothing")
        with pytest.raises(NotFound, match=r"No file of the model hf:a/b/c\.gguf is here"):
            found.path("hf:a/b/c.gguf")
