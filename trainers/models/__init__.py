"""The project's own model architectures, each a `transformers.PreTrainedModel`."""
