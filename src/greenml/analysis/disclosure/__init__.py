"""Disclosure: the records of a model's runs as the files that regulators, registries and reports ask for.

One file a format, found by being there: ``render(model) -> str``. What a record does not know is asked of the model,
``model.answer(name)``, and listed at the end; a format writes "unknown", or leaves the field out, and never 0.
"""
