"""ds_bert: pre-train a BERT on your own text, from raw text to a Hugging Face model."""

__version__ = "0.1.0"
