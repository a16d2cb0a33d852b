"""What processes would each make at their start, made once in the server that they are forked from."""

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from ebft import data

get_checkpoint_conversion_mapping("llama")  # of all models, a thousand regular expressions
data._embedded(data.EMBEDDED["translation"])
